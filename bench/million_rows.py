"""Validate and split of one huge table of texts: seconds and peak memory of each step.

    python bench/million_rows.py                 a million rows
    python bench/million_rows.py --rows 100000   a smaller table

Every row has a text of its own, of 8 to 40 words that are drawn at random, except for one in a hundred, which repeats
an earlier row. Each step runs in a process of its own, as `thaw run` without Prefect would call it.

Target for a million rows: at most 3 GB and 10 minutes in all.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from pipeline.config import DataConfig, SplitConfig
from pipeline.context import Context
from pipeline.manifest import sha256
from pipeline.records import ValidateRecord
from pipeline.steps.split import split
from pipeline.steps.validate import validate
from pipeline.tasks.text_classification.settings import TextClassificationConfig

STEPS = ("validate", "split")
LABELS = ("billing", "delivery", "quality", "other")
WORDS = 20_000  # in the vocabulary
REPEATED = 0.01  # of the rows, exactly


def main() -> None:
    options = parse_arguments()
    if options.step is not None:
        run_step(options.step, options.workspace)
        return
    with tempfile.TemporaryDirectory(prefix="thaw-rows-") as temporary:
        workspace = Path(temporary)
        write_table(workspace / "data" / "texts.csv", options.rows)
        results = {step: measure_step(step, workspace) for step in STEPS}
        digests = {
            name: sha256(workspace / name)
            for name in ("split/manifest.parquet", "ledger.parquet")
        }
    report = {"rows": options.rows, "steps": results, "sha256": digests}
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--workspace", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


def write_table(path: Path, rows: int) -> None:
    """Writes a CSV with the columns text and label; the same for the same number of
    rows.
    """
    path.parent.mkdir(parents=True)
    draw = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    vocabulary = [
        "".join(draw.choices(letters, k=draw.randint(2, 10))) for _ in range(WORDS)
    ]
    recent: list[tuple[str, str]] = []
    with path.open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(("text", "label"))
        for _ in range(rows):
            if recent and draw.random() < REPEATED:
                row = draw.choice(recent)
            else:
                words = draw.choices(vocabulary, k=draw.randint(8, 40))
                row = (" ".join(words), draw.choice(LABELS))
                recent = [*recent[-99:], row]
            table.writerow(row)


def measure_step(step: str, workspace: Path) -> dict[str, float]:
    """Runs a step in a process of its own; what it reports: seconds, CPU seconds and
    peak memory in GB.
    """
    command = [sys.executable, __file__, "--step", step, "--workspace", str(workspace)]
    finished = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: dict[str, float] = json.loads(finished.stdout.splitlines()[-1])
    return figures


def run_step(step: str, workspace: Path) -> None:
    context = Context(
        workspace,
        workspace / "data",
        workspace / ".thaw",
        workspace / ".thaw/runs/bench" / step,
    )
    task = TextClassificationConfig()
    out = workspace / step
    out.mkdir()
    start = time.perf_counter()
    if step == "validate":
        validate(DataConfig(), task, out, context)
    else:
        validated = ValidateRecord.load(workspace / "validate")
        config = SplitConfig(near_duplicates=task.defaults["split"]["near_duplicates"])
        split(config, validated, out, context)
    seconds = time.perf_counter() - start
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cpu = usage.ru_utime + usage.ru_stime
    figures = {
        "seconds": round(seconds, 1),
        "cpu": round(cpu, 1),
        "gb": round(usage.ru_maxrss / 1e6, 2),
    }
    sys.stdout.write(json.dumps(figures) + "\n")


if __name__ == "__main__":
    main()
