"""Detection and segmentation: how good after how many steps, and what a step costs
beside the usual script, in one go.

    python bench/dense.py             everything: half an hour on two quiet cores
    python bench/dense.py --only bccd --contenders full-short
    python bench/dense.py --contenders prefix --threads 1
    python bench/dense.py --quick     a smoke run of every part

The sets are bccd (boxes) and dsb2018 (masks) where `THAW_REAL` (or ../shared) has them;
the network's body is mobilenet_v2 with ImageNet weights. `bccd-resnet50` is bccd with a
ResNet-50 of random weights, which only tells what a step costs. Each contender runs in a
process of its own; `training CPU s` are the processor's seconds of the epochs alone,
without decoding, validation and measuring the plan; they are one thread's where
`--threads 1` is given. `reference-…` are steps as torchvision's reference script
takes them; `dense_reference.py` says which networks.

Targets: bccd 45 mean AP and 82 at 0.5 within 76 steps of 8 pictures, 51 and 85 within
190; the last six blocks 39 and 76 within 56; dsb2018 85 mean IoU within 48 steps, 87
within 95, each reached where the interval's upper end does; a step with the frozen body
kept 1.1 times as fast as computed (boxes), 1.5 times (ResNet-50), 1.3 times (masks);
50 times fewer processor's seconds a picture than at 800 pixels.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torchvision
from dense_ours import BATCH, CONTENDERS, PREFIX
from rich.console import Console
from rich.table import Table
from run import REAL, add_race_options, machine
from whole_run import command

HERE = Path(__file__).resolve().parent
RESNET = "bccd-resnet50"
SETS = {
    "bccd": "object-detection",
    RESNET: "object-detection",
    "dsb2018": "semantic-segmentation",
}
WEIGHTS = REAL / "weights" / "mobilenet_v2_imagenet_int8pc_dequant.pth"
REFERENCES = (
    "reference-800",
    "reference-800-pyramid",
    "reference-800-resnet50",
    "reference-320",
)
SHOWN = {"bccd": ("mean_ap", "mean_ap_50"), "dsb2018": ("mean_iou", "mean_dice")}
console = Console()


def main() -> None:
    options = parse_arguments()
    results: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="thaw-bench-") as temporary:
        for name in options.only or SETS:
            workspace = make_workspace(name, Path(temporary))
            results[name] = {}
            for contender in contenders(name, options.contenders):
                results[name][contender] = run(
                    contender, workspace, Path(temporary) / name, options
                )
                show_one(name, contender, results[name][contender])
    report = {
        "machine": machine(),
        "quick": options.quick,
        "threads": options.threads,
        "sets": results,
    }
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report, indent=2))
    show(results)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a step or an epoch each: does every part run?",
    )
    parser.add_argument(
        "--only", nargs="+", choices=list(SETS), help="these sets alone"
    )
    parser.add_argument(
        "--contenders",
        nargs="+",
        choices=[*CONTENDERS, PREFIX, *REFERENCES],
        help="these alone",
    )
    add_race_options(parser, "bench-dense.json")
    return parser.parse_args()


def contenders(name: str, wanted: list[str] | None) -> list[str]:
    there = [PREFIX] if name == RESNET else [*CONTENDERS, PREFIX]
    if name == "bccd":
        there += REFERENCES
    return [one for one in there if wanted is None or one in wanted]


def make_workspace(name: str, folder: Path) -> Path:
    """A workspace that is validated, split and has its backbone."""
    workspace = folder / f"{name}-workspace"
    network, weights = "mobilenet_v2", WEIGHTS
    if name == RESNET:
        network, weights = "resnet50", make_random_weights(folder)
    data = REAL / "data" / name.partition("-")[0]
    given = ["--task", SETS[name], "--data", str(data)]
    given += ["--backbone", f"torchvision/{network}", "--weights", str(weights)]
    command("init", str(workspace), *given)
    for step in ("validate", "split", "backbone"):
        command("step", step, cwd=workspace)
    return workspace


def make_random_weights(folder: Path) -> Path:
    """A ResNet-50's that was never trained, its batch normalisation fitted to noise so
    that what it computes keeps a usual size.
    """
    torch.manual_seed(0)
    network = torchvision.models.resnet50(weights=None).train()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network(torch.randn(8, 3, 160, 160))
    path = folder / "resnet50.pth"
    torch.save(network.state_dict(), path)
    return path


def run(
    contender: str, workspace: Path, scratch: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """The result that a contender's script leaves."""
    script = "dense_reference.py" if contender in REFERENCES else "dense_ours.py"
    scratch.mkdir(parents=True, exist_ok=True)
    left = scratch / f"{contender}.json"
    words = [
        sys.executable,
        str(HERE / script),
        contender,
        str(workspace),
        str(scratch / contender),
        str(left),
    ]
    words += ["--threads", str(options.threads)]
    if options.quick:
        words.append("--quick")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(
            f"{contender} exited with {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        )
    result: dict[str, Any] = json.loads(left.read_text())
    return result


def show_one(name: str, contender: str, result: dict[str, Any]) -> None:
    """A line as soon as it is known: the whole takes long."""
    if contender in REFERENCES:
        console.print(
            f"{name} {contender}: {result['cpu_seconds_a_picture']:.2f} CPU s a picture"
        )
        return
    if contender == PREFIX:
        console.print(
            f"{name}: a step with the frozen body kept {result['kept']:.0f} CPU ms, computed "
            f"{result['computed']:.0f}: {result['ratio']:.2f}× ({result['plan']})"
        )
        return
    values = ", ".join(
        f"{metric} {format_estimate(result['test'][metric])}" for metric in SHOWN[name]
    )
    console.print(
        f"{name} {contender}: {result['steps']} steps, {values}, {result['cpu_milliseconds_a_step']:.0f} CPU ms a step"
    )


def format_estimate(estimate: dict[str, float]) -> str:
    return "{:.1f} ({:.1f}–{:.1f})".format(
        *(100 * estimate[key] for key in ("value", "low", "high"))
    )


def show(results: dict[str, dict[str, Any]]) -> None:
    for name, by_contender in results.items():
        show_ratios(by_contender)
        trained = [one for one in by_contender if one in CONTENDERS]
        if not trained:
            continue
        table = Table(
            "",
            "steps",
            *SHOWN[name],
            "training CPU s",
            "CPU s",
            "CPU ms a step",
            title=name,
        )
        for contender in trained:
            result = by_contender[contender]
            values = [format_estimate(result["test"][metric]) for metric in SHOWN[name]]
            table.add_row(
                contender,
                str(result["steps"]),
                *values,
                f"{result['training_seconds']:.0f}",
                f"{result['cpu_seconds']:.0f}",
                f"{result['cpu_milliseconds_a_step']:.0f}",
            )
        console.print(table)


def show_ratios(results: dict[str, Any]) -> None:
    """How much cheaper a picture is than in the reference's steps."""
    steps: dict[str, float] = {}
    for contender in ("full-short", "last-six"):
        if contender in results:
            steps[contender] = results[contender]["cpu_milliseconds_a_step"]
    if PREFIX in results:
        steps["the frozen body kept"] = results[PREFIX]["kept"]
    for reference in REFERENCES:
        if reference not in results:
            continue
        theirs = 1000 * results[reference]["cpu_seconds_a_picture"]
        for contender, milliseconds in steps.items():
            ratio = theirs / (milliseconds / BATCH)
            console.print(
                f"{reference}: {ratio:.1f}× the processor's seconds a picture of {contender}"
            )


if __name__ == "__main__":
    main()
