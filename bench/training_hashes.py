"""sha256 of the weights that image classification comes to, with everything fixed that may be fixed.

    python -P bench/training_hashes.py            the sample, and hymenoptera where THAW_REAL has it
    python -P bench/training_hashes.py --thaw PATH/TO/.venv/bin/thaw    with another version's command

Two versions that compute the same print the same. It goes through `thaw init` and `thaw run` and reads files alone, so
it runs with any version. The last of each set is a `gradual` that is killed in the middle and gone on with.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

HERE = Path(__file__).resolve().parent
REAL = Path(os.environ.get("THAW_REAL", HERE.parent.parent / "shared"))
PLAN = {
    "precision": "fp32",
    "memory_format": "contiguous",
    "threads": 1,
    "compile": "off",
}
console = Console()
FINETUNE: dict[str, Any] = {"epochs": 3, "views": 2, "patience": 0, "plan": PLAN}


def command(thaw: str, *words: str, cwd: Path | None = None, crash: str = "") -> int:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    if crash:
        environment["THAW_CRASH_AT"] = crash
    done = subprocess.run(
        [thaw, *words],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode and not crash:
        raise SystemExit(
            f"thaw {' '.join(words)} exited with {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
    return done.returncode


def prepare(
    thaw: str, folder: Path, data: Path, weights: str, changes: dict[str, Any]
) -> None:
    """A workspace with the plan fixed."""
    backbone = (
        "torchvision/mobilenet_v2"
        if weights != "shipped"
        else "torchvision/mobilenet_v3_small"
    )
    command(
        thaw,
        "init",
        str(folder),
        "--data",
        str(data),
        "--backbone",
        backbone,
        "--weights",
        weights,
    )
    path = folder / "params.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8"))
    for key, value in changes.items():
        if isinstance(value, dict):
            values["finetune"][key].update(value)
        else:
            values["finetune"][key] = value
    values["tracking"]["enabled"] = False
    if (data / "metadata.csv").is_file():
        values["data"]["table"] = "metadata.csv"
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def hashes(folder: Path) -> dict[str, str]:
    found = {}
    for model in sorted(folder.glob("artifacts/finetune/*/model.safetensors")):
        found[model.parent.name] = hashlib.sha256(model.read_bytes()).hexdigest()
    return found


def measure(thaw: str, data: Path, weights: str, scratch: Path) -> dict[str, str]:
    prepare(
        thaw,
        scratch / "whole",
        data,
        weights,
        {**FINETUNE, "recipes": ["head", "gradual"], "baseline": "always"},
    )
    command(thaw, "run", cwd=scratch / "whole")
    found = hashes(scratch / "whole")
    prepare(
        thaw,
        scratch / "killed",
        data,
        weights,
        {**FINETUNE, "recipes": ["gradual"], "baseline": "never"},
    )
    status = command(thaw, "run", cwd=scratch / "killed", crash="last-batch:2")
    assert status, "it was not killed"
    command(thaw, "run", cwd=scratch / "killed")
    found["gradual, killed and gone on with"] = hashes(scratch / "killed")["gradual"]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--thaw", default=str(Path(sys.executable).with_name("thaw")))
    thaw = parser.parse_args().thaw
    with tempfile.TemporaryDirectory(prefix="thaw-hashes-") as temporary:
        scratch = Path(temporary)
        command(thaw, "sample", str(scratch / "sample-data"))
        sets = {"sample": (scratch / "sample-data", "shipped")}
        hymenoptera = REAL / "data" / "hymenoptera"
        if hymenoptera.is_dir():
            sets["hymenoptera"] = (
                hymenoptera,
                str(REAL / "weights" / "mobilenet_v2_imagenet_int8pc_dequant.pth"),
            )
        for name, (data, weights) in sets.items():
            found = measure(thaw, data, weights, scratch / name)
            console.print_json(json.dumps({name: found}))


if __name__ == "__main__":
    main()
