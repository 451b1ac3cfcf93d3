"""Fine-tuning on text: Thaw beside a plain Hugging Face Trainer script, in one go.

    python bench/text.py                       everything: about half an hour on two cores
    python bench/text.py --quick               a smoke run of every part
    python bench/text.py --only thaw-full thaw-top trainer-longest micro

SST-2 and MiniLM (six layers) where `THAW_REAL` (or ../shared) has them, else Thaw's own sample and encoder. The Trainer
script is the usual one: fp32, batches of 16, 3 epochs, everything trained, texts padded to 128 tokens or to the longest
of their batch. Thaw's contenders are the finetune step as `thaw run` runs it, from the manifest to the finished
candidate, tokenizing included: `thaw-full` with the defaults, `thaw-top` with the two upper layers and the head, whose
frozen layers are computed once. Each contender runs in a process of its own, and its clock starts after its imports.
Seconds of the processor are told beside those of the clock: on a busy machine they are the ones to compare.

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
from run import REAL, add_race_options, machine, wilson
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
        console.print(
            "the Trainer needs accelerate: pip install 'thaw\\[bench]'; left out"
        )
        names = [name for name in names if name not in TRAINERS]
    with tempfile.TemporaryDirectory(prefix="thaw-bench-") as temporary:
        scratch = Path(temporary)
        workspace = make_workspace(scratch)
        results = {
            name: run_contender(name, workspace, scratch, options) for name in names
        }
    micro = results.pop("micro", None)
    report = {
        "machine": machine(),
        "quick": options.quick,
        "threads": options.threads,
        "contenders": {name: summarize(result) for name, result in results.items()},
        "micro": micro,
    }
    report["races"] = list(races(report["contenders"]))
    show(report)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report, indent=1) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="a few steps each: does every part run?"
    )
    parser.add_argument(
        "--only", nargs="+", choices=CONTENDERS, help="these contenders alone"
    )
    add_race_options(parser, "bench-text.json")
    return parser.parse_args()


def make_workspace(scratch: Path) -> Path:
    """A workspace that is validated, split and has its backbone: what all contenders
    are given.
    """
    workspace = scratch / "workspace"
    sst2, minilm = REAL / "data" / "sst2", REAL / "weights" / "minilm-l6"
    if sst2.is_dir() and minilm.is_dir():
        given = ["--data", str(sst2), "--weights", str(minilm)]
    else:
        given = ["--sample"]
    command("init", str(workspace), "--task", "text-classification", *given)
    for step in ("validate", "split", "backbone"):
        command("step", step, cwd=workspace)
    return workspace


def run_contender(
    name: str, workspace: Path, scratch: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """The result that a contender's script leaves."""
    script = "text_trainer.py" if name in TRAINERS else "text_ours.py"
    left = scratch / f"{name}.json"
    console.print(f"{name} …")
    words = [
        sys.executable,
        str(HERE / script),
        name,
        str(workspace),
        str(scratch / name),
        str(left),
    ]
    words += ["--threads", str(options.threads)]
    if options.quick:
        words.append("--quick")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(
            f"{name} exited with {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        )
    result: dict[str, Any] = json.loads(left.read_text())
    return result


def summarize(result: dict[str, Any]) -> dict[str, Any]:
    """The best epoch counts, as every contender keeps its best; with Wilson's interval."""
    best = max(mark[-1] for mark in result["marks"])
    low, high = wilson(best, result["examples"])
    return {
        **result,
        "accuracy": best,
        "low": low,
        "high": high,
        "reached": find_mark(result, best),
    }


def find_mark(result: dict[str, Any], accuracy: float) -> tuple[float, float] | None:
    """Seconds and processor's seconds after which a contender first was that good."""
    for seconds, cpu_seconds, reached in result["marks"]:
        if reached >= accuracy - 1e-9:
            return seconds, cpu_seconds
    return None


def races(contenders: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """How long each of ours takes to each Trainer's best validation accuracy."""
    for ours in ("thaw-full", "thaw-top"):
        for other in TRAINERS:
            if ours not in contenders or other not in contenders:
                continue
            goal, theirs = contenders[other]["accuracy"], contenders[other]["reached"]
            own = find_mark(contenders[ours], goal)
            yield {
                "ours": ours,
                "other": other,
                "accuracy": goal,
                "our_seconds": own[0] if own else None,
                "their_seconds": theirs[0],
                "ratio": theirs[0] / own[0] if own else None,
                "processor's ratio": theirs[1] / own[1] if own else None,
                "target": TARGETS[other],
            }


def show(report: dict[str, Any]) -> None:
    table = Table(
        "",
        "validation accuracy",
        "95 %",
        "test",
        "s to it",
        "s in all",
        "CPU s",
        title="contenders",
    )
    for name, result in report["contenders"].items():
        table.add_row(
            name,
            f"{result['accuracy']:.1%}",
            f"{result['low']:.1%}–{result['high']:.1%}",
            f"{result['test']:.1%}",
            f"{result['reached'][0]:.1f}",
            f"{result['seconds']:.1f}",
            f"{result['cpu_seconds']:.0f}",
        )
    console.print(table)
    table = Table(
        "",
        "to the accuracy of",
        "is",
        "ours, s",
        "theirs, s",
        "ratio",
        "of processor's s",
        "target",
    )
    for race in report["races"]:
        own = (
            "not reached"
            if race["our_seconds"] is None
            else f"{race['our_seconds']:.1f}"
        )
        ratio = "—" if race["ratio"] is None else f"{race['ratio']:.1f}×"
        cpu_ratio = (
            "—"
            if race["processor's ratio"] is None
            else "{:.1f}×".format(race["processor's ratio"])
        )
        table.add_row(
            race["ours"],
            race["other"],
            f"{race['accuracy']:.1%}",
            own,
            f"{race['their_seconds']:.1f}",
            ratio,
            cpu_ratio,
            f"≥ {race['target']:g}×",
        )
    console.print(table)
    if report["micro"]:
        console.print_json(json.dumps(report["micro"]))


if __name__ == "__main__":
    main()
