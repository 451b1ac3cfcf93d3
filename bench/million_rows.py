"""A million rows of text through validate and split: seconds and the most memory of each.

    python bench/million_rows.py                 a million rows: some ten minutes
    python bench/million_rows.py --rows 100000

Each row is a made-up sentence of 5 to 40 words; one in a thousand repeats an earlier one. Targets: at most 3 GB and 10
minutes for both steps together.
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

from rich.console import Console

THAW = Path(sys.executable).with_name("thaw")
WORDS, REPEATED = 20_000, 0.001
console = Console()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory(prefix="thaw-rows-") as temporary:
        table = Path(temporary) / "texts.csv"
        write_table(table, rows)
        workspace = Path(temporary) / "workspace"
        report: dict[str, object] = {"rows": rows, "megabytes": round(table.stat().st_size / 1e6)}
        report["init"] = measure("init", str(workspace), "--task", "text-classification", "--data", str(table))
        for step in ("validate", "split"):
            report[step] = measure("step", step, cwd=workspace)
    console.print_json(json.dumps(report))


def write_table(path: Path, rows: int) -> None:
    dice = random.Random(0)
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = ["".join(dice.choices(letters, k=dice.randint(2, 9))) for _ in range(WORDS)]
    written: list[list[str]] = []
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["text", "label"])
        for _ in range(rows):
            if written and dice.random() < REPEATED:
                row = dice.choice(written)
            else:
                row = [" ".join(dice.choices(words, k=dice.randint(5, 40))), dice.choice(("good", "bad", "other"))]
            if len(written) < 1000:
                written.append(row)
            writer.writerow(row)


def measure(*words: str, cwd: Path | None = None) -> dict[str, float]:
    """One command in a process of its own: its seconds, and the most memory that it has held."""
    began = time.perf_counter()
    process = subprocess.Popen([THAW, *words], cwd=cwd, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    error = process.communicate()[1]
    if process.returncode:
        raise SystemExit(f"thaw {' '.join(words)} exited with {process.returncode}\n{error[-3000:]}")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    return {"seconds": round(time.perf_counter() - began, 1), "peak_gb": round(peak / 1e9, 2)}


if __name__ == "__main__":
    main()
