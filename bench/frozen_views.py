"""What a stage with frozen blocks loses by showing fewer views, and what that costs less: `gradual` with all eight
views, with four and with two, on the data sets of `accuracy.py`.

    python bench/frozen_views.py --seeds 3 --views 8 4
    python bench/frozen_views.py --only cells-20

For each seed the same split and all counts in turns, with nothing kept from the training before; seconds are the
processor's, of the step `finetune` alone, imports and decoding included.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import tempfile
from pathlib import Path
from statistics import fmean
from typing import Any

from accuracy import SETS, DataSet
from rich.console import Console
from rich.table import Table
from whole_run import command

METRICS = ("accuracy", "log_loss")
console = Console()


def main() -> None:
    options = arguments()
    found: dict[str, list[dict[str, Any]]] = {}
    for name in options.only or SETS:
        with tempfile.TemporaryDirectory(prefix="thaw-views-") as scratch:
            found[name] = compare(SETS[name], Path(scratch), options)
        show(name, found[name], options.views)
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    console.print(f"written to {options.json}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=list(SETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--views", nargs="+", type=int, default=[8, 4])
    parser.add_argument("--json", type=Path, default=Path(".thaw/frozen-views.json"))
    return parser.parse_args()


def compare(
    dataset: DataSet, scratch: Path, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """A row for each training: seed, views, metrics on the test split, seconds."""
    setting = dataset.setting()
    workspace = scratch / "workspace"
    command(
        "init",
        str(workspace),
        "--data",
        str(dataset.prepare(scratch / "data")),
        "--recipe",
        "gradual",
        "--backbone",
        f"torchvision/{setting['architecture']}",
        "--weights",
        setting["weights_reference"],
        *dataset.init,
    )
    change(workspace, "baseline", "never")
    for step in ("validate", "split", "backbone"):
        command("step", step, cwd=workspace)
    rows: list[dict[str, Any]] = []
    for seed in range(options.seeds):
        change(workspace, "seed", seed, before="batch_size")
        for views in options.views:
            row = {"seed": seed, "views": views, **train(workspace, views)}
            rows.append(row)
            console.print(row)
    return rows


def train(workspace: Path, views: int) -> dict[str, float]:
    """Trains and evaluates; nothing of an earlier training is used."""
    change(workspace, "frozen_views", views)
    command("clean", "--trainings", "--yes", cwd=workspace)
    began = processor_seconds()
    command("step", "finetune", cwd=workspace)
    seconds = processor_seconds() - began
    command("step", "evaluate", cwd=workspace)
    record = workspace / "artifacts" / "evaluate" / "record.json"
    metrics = json.loads(record.read_text())["metrics"]
    return {"seconds": seconds, **{name: metrics[name]["value"] for name in METRICS}}


def change(workspace: Path, name: str, value: object, before: str = "") -> None:
    """Sets a value of the section `finetune`."""
    path = workspace / "params.yaml"
    follows = rf"(?=\n(?:  #.*\n)?  {before})" if before else ""
    pattern = re.compile(rf"^  {name}: .*{follows}", re.MULTILINE)
    head, section = path.read_text().split("\nfinetune:\n", 1)
    changed, count = pattern.subn(f"  {name}: {value}", section, count=1)
    assert count == 1, f"{name} is no setting of finetune"
    path.write_text(f"{head}\nfinetune:\n{changed}")


def processor_seconds() -> float:
    """Of all ended child processes."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def show(name: str, rows: list[dict[str, Any]], counts: list[int]) -> None:
    table = Table("views", *METRICS, "processor's seconds", title=name)
    for views in counts:
        chosen = [row for row in rows if row["views"] == views]
        means = [f"{fmean(row[metric] for row in chosen):.3f}" for metric in METRICS]
        seconds = fmean(row["seconds"] for row in chosen)
        table.add_row(str(views), *means, f"{seconds:.1f}")
    console.print(table)


if __name__ == "__main__":
    main()
