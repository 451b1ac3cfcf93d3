"""Fine-tuning on text: Thaw beside a plain Hugging Face Trainer script, in one go.

    python bench/text.py                       everything: about half an hour on two cores
    python bench/text.py --quick               a smoke run of every part
    python bench/text.py --only thaw-full thaw-top trainer-longest micro

SST-2 and MiniLM (six layers) where `THAW_REAL` (or ../shared) has them, else Thaw's own sample and encoder. The Trainer
script is the usual one: fp32, batches of 16, 3 epochs, everything trained, texts padded to 128 tokens or to the longest
of their batch. Thaw's contenders are the finetune step as `thaw run` runs it, from the manifest to the finished
candidate, tokenizing included: `thaw-full` with the defaults, `thaw-top` with the two upper layers and the head, whose
frozen layers are computed once. Each contender runs in a process of its own, and its clock starts after its imports.

Targets: to the Trainer's own final validation accuracy, 8 times as fast as padded to 128 and 3 times as fast as padded
to the longest; a frozen prefix kept 1.4 times as fast as computed again; texts in buckets 3 times as fast as padded to 128.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from run import REAL, machine, seconds_to, wilson
from whole_run import command

HERE = Path(__file__).resolve().parent
TRAINERS = ("trainer-128", "trainer-longest")
CONTENDERS = ("thaw-full", "thaw-top", *TRAINERS, "micro")
TARGETS = {"trainer-128": 8.0, "trainer-longest": 3.0}
console = Console()


def main() -> None:
    options = parse_arguments()
    names = [name for name in CONTENDERS if not options.only or name in options.only]
    if importlib.util.find_spec("accelerate") is None:
        console.print("the Trainer needs accelerate: pip install 'thaw\\[bench]'; left out")
        names = [name for name in names if name not in TRAINERS]
    with tempfile.TemporaryDirectory(prefix="thaw-bench-") as temporary:
        scratch = Path(temporary)
        workspace = make_workspace(scratch)
        results = {name: run_contender(name, workspace, scratch, quick=options.quick) for name in names}
    micro = results.pop("micro", None)
    report = {
        "machine": machine(),
        "quick": options.quick,
        "contenders": {name: summarize(result) for name, result in results.items()},
        "micro": micro,
    }
    report["races"] = list(races(report["contenders"]))
    show(report)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few steps each: does every part run?")
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, help="these contenders alone")
    parser.add_argument(
        "--json", type=Path, default=HERE.parent / ".thaw" / "bench-text.json", help="the result's file"
    )
    return parser.parse_args()


def make_workspace(scratch: Path) -> Path:
    """A workspace that is validated, split and has its backbone: what all contenders are given."""
    workspace = scratch / "workspace"
    sst2, minilm = REAL / "data" / "sst2", REAL / "weights" / "minilm-l6"
    if sst2.is_dir() and minilm.is_dir():
        source, backbone = sst2, ["--weights", str(minilm)]
    else:
        source = scratch / "reviews"
        command("sample", str(source), "--task", "text-classification")
        backbone = ["--backbone", "transformers/tiny_text", "--weights", "shipped"]
    command("init", str(workspace), "--task", "text-classification", "--data", str(source), *backbone)
    for step in ("validate", "split", "backbone"):
        command("step", step, cwd=workspace)
    return workspace


def run_contender(name: str, workspace: Path, scratch: Path, *, quick: bool) -> dict[str, Any]:
    """The result that a contender's script leaves."""
    script = "text_trainer.py" if name in TRAINERS else "text_ours.py"
    left = scratch / f"{name}.json"
    console.print(f"{name} …")
    words = [sys.executable, str(HERE / script), name, str(workspace), str(scratch / name), str(left)]
    if quick:
        words.append("--quick")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name} exited with {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    result: dict[str, Any] = json.loads(left.read_text())
    return result


def summarize(result: dict[str, Any]) -> dict[str, Any]:
    """The best epoch counts, as every contender keeps its best; with Wilson's interval."""
    best = max(accuracy for _, accuracy in result["marks"])
    low, high = wilson(best, result["examples"])
    marks = [[seconds, 0, accuracy] for seconds, accuracy in result["marks"]]
    return {**result, "accuracy": best, "low": low, "high": high, "reached": seconds_to(marks, best)}


def races(contenders: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """How long each of ours takes to each Trainer's best validation accuracy."""
    for ours in ("thaw-full", "thaw-top"):
        for other in TRAINERS:
            if ours not in contenders or other not in contenders:
                continue
            goal, theirs = contenders[other]["accuracy"], contenders[other]["reached"]
            marks = [[seconds, 0, accuracy] for seconds, accuracy in contenders[ours]["marks"]]
            own = seconds_to(marks, goal)
            yield {
                "ours": ours,
                "other": other,
                "accuracy": goal,
                "our_seconds": own,
                "their_seconds": theirs,
                "ratio": theirs / own if own else None,
                "ratio in all": contenders[other]["seconds"] / contenders[ours]["seconds"],
                "target": TARGETS[other],
            }


def show(report: dict[str, Any]) -> None:
    table = Table("", "validation accuracy", "95 %", "test", "s to it", "s in all", "CPU s", title="contenders")
    for name, result in report["contenders"].items():
        table.add_row(
            name,
            f"{result['accuracy']:.1%}",
            f"{result['low']:.1%}–{result['high']:.1%}",
            f"{result['test']:.1%}",
            f"{result['reached']:.1f}",
            f"{result['seconds']:.1f}",
            f"{result['cpu_seconds']:.0f}",
        )
    console.print(table)
    table = Table("", "to the accuracy of", "which is", "ours, s", "theirs, s", "ratio", "target", title="races")
    for race in report["races"]:
        own = "not reached" if race["our_seconds"] is None else f"{race['our_seconds']:.1f}"
        ratio = "—" if race["ratio"] is None else f"{race['ratio']:.1f}×"
        table.add_row(
            race["ours"],
            race["other"],
            f"{race['accuracy']:.1%}",
            own,
            f"{race['their_seconds']:.1f}",
            ratio,
            f"≥ {race['target']:g}×",
        )
    console.print(table)
    if report["micro"]:
        console.print_json(json.dumps(report["micro"]))


if __name__ == "__main__":
    main()
