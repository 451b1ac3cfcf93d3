"""How long until the network is good? Thaw beside the usual tutorial, fastai and Lightning.

    make bench                                        all of it: about half an hour on two cores
    python -P bench/run.py --quick                    a smoke run of every part
    python -P bench/run.py --only thaw-head micro     some of it

The same backbone, weights, images and split for everybody: hymenoptera and MobileNetV2 where `THAW_REAL` (or ../shared)
has them, else Thaw's own sample and backbone. Targets: head-only 30 times and gradual 10 times as fast as the tutorial to
the tutorial's own accuracy, and 15 times as fast as the better of the peers to the peer's best. A whole `thaw run`, imports
and registration included, takes less than the fastest peer's bare training with the comparison from scratch remembered,
and less than 1.5 times that with it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parent
REAL = Path(os.environ.get("THAW_REAL", HERE.parent.parent / "shared"))
EPOCHS = {
    "tutorial-head": 25,
    "tutorial-full": 25,
    "fastai": 4,
    "lightning": 5,
    "thaw-head": 30,
    "thaw-gradual": 15,
    "thaw-run": 15,
    "micro": 6,
    "conducting": 15,
}
SCRIPTS = {
    "tutorial-head": "tutorial.py",
    "tutorial-full": "tutorial.py",
    "fastai": "peer_fastai.py",
    "lightning": "peer_lightning.py",
    "thaw-head": "ours.py",
    "thaw-gradual": "ours.py",
    "thaw-run": "whole_run.py",
    "micro": "micro.py",
}
IMAGENET_WEIGHTS = REAL / "weights" / "mobilenet_v2_imagenet_int8pc_dequant.pth"
PACKAGES = {"fastai": "fastai", "lightning": "lightning"}
TARGETS = {
    ("thaw-head", "tutorial-head"): 30,
    ("thaw-gradual", "tutorial-full"): 10,
    ("thaw-head", "fastai"): 15,
    ("thaw-head", "lightning"): 15,
}
CONFIG = {
    "thaw-head": {"views": 1, "lr": 3e-3, "patience": 0},
    "thaw-gradual": {"views": 1, "lr": 3e-3},
}
WHOLE = "thaw-run"
# Over in seconds, in which a busy neighbour counts for much: the median of three.
TURNS = {"thaw-head": 3}
console = Console()


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="thaw-bench-") as scratch:
        setting = the_setting(Path(scratch), options)
        names = [name for name in SCRIPTS if not options.only or name in options.only]
        found = {
            name: median(name, setting, Path(scratch))
            for name in names
            if available(name)
        }
    report = {
        "machine": machine(),
        "setting": setting,
        "config": CONFIG,
        "quick": options.quick,
        "contenders": {
            name: summary(result)
            for name, result in found.items()
            if name != "micro" and result
        },
        "micro": found["micro"]["parts"] if found.get("micro") else None,
    }
    report["races"] = list(races(report["contenders"]))
    report["whole run"] = whole_run(report["contenders"])
    show(report)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(report, indent=1) + "\n")
    console.print(f"written to {options.json}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one epoch each, on a few images: does every part run?",
    )
    parser.add_argument(
        "--only", nargs="+", choices=list(SCRIPTS), help="these contenders alone"
    )
    parser.add_argument(
        "--json",
        type=Path,
        default=HERE.parent / ".thaw" / "bench.json",
        help="where the result goes",
    )
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


# --- the setting ----------------------------------------------------------------------
def the_setting(scratch: Path, options: argparse.Namespace) -> dict[str, Any]:
    hymenoptera = REAL / "data" / "hymenoptera"
    usable = hymenoptera.is_dir() and IMAGENET_WEIGHTS.is_file()
    setting = (
        {**hymenoptera_setting(), "data": str(hymenoptera)}
        if usable
        else sample(scratch)
    )
    setting.pop("weights_reference", None)
    if options.quick:
        setting["data"] = str(a_few(Path(setting["data"]), scratch / "few"))
    epochs = dict.fromkeys(EPOCHS, 1) | {"micro": 2} if options.quick else EPOCHS
    threads = len(os.sched_getaffinity(0))
    config = (
        {
            "plan": {"precision": "fp32", "memory_format": "channels-last"},
            "batch_size": 8,
        }
        if options.quick
        else {}
    )
    return {
        **setting,
        "epochs": epochs,
        "threads": threads,
        "seed": options.seed,
        "config": config,
    }


def hymenoptera_setting() -> dict[str, Any]:
    """MobileNetV2 with ImageNet weights; `weights_reference` is what `thaw init
    --weights` is given.
    """
    return {
        "architecture": "mobilenet_v2",
        "weights": str(IMAGENET_WEIGHTS),
        "weights_reference": str(IMAGENET_WEIGHTS),
        "size": 224,
        "resize": 256,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    }


def shipped_setting() -> dict[str, Any]:
    """The backbone that ships with Thaw."""
    from safetensors import safe_open

    from pipeline.models import shipped

    weights = next(Path(shipped.__file__).parent.glob("*.safetensors"))
    with safe_open(weights, "pt") as file:
        about = file.metadata()
    return {
        "architecture": about["architecture"],
        "weights": str(weights),
        "weights_reference": "shipped",
        "size": 96,
        "resize": 96,
        "mean": json.loads(about["mean"]),
        "std": json.loads(about["std"]),
    }


def sample(scratch: Path) -> dict[str, Any]:
    """The generated sample, dealt into train and val by part, and the backbone that
    ships with Thaw.
    """
    import csv

    from pipeline.data.sample import generate

    generate(scratch / "made")
    rows = list(
        csv.DictReader((scratch / "made" / "metadata.csv").read_text().splitlines())
    )
    for row in rows:
        phase = "val" if sum(row["group"].encode()) % 10 < 3 else "train"
        path = scratch / "sample" / phase / row["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(scratch / "made" / row["path"], path)
    return {**shipped_setting(), "data": str(scratch / "sample")}


def a_few(source: Path, folder: Path, each: int = 12) -> Path:
    """The first images of each class in train and val."""
    for kind in source.glob("*/*"):
        images = sorted(
            p for p in kind.iterdir() if p.suffix.lower() in (".jpg", ".jpeg", ".png")
        )
        (folder / kind.relative_to(source)).mkdir(parents=True)
        for path in images[:each]:
            shutil.copyfile(path, folder / path.relative_to(source))
    return folder


# --- a contender ----------------------------------------------------------------------
def available(name: str) -> bool:
    package = PACKAGES.get(name)
    if package is None or importlib.util.find_spec(package) is not None:
        return True
    console.print(
        f"{name}: left out, {package} is not installed (pip install 'thaw\\[bench]')"
    )
    return False


def median(name: str, setting: dict[str, Any], scratch: Path) -> dict[str, Any] | None:
    """A contender's result, or of several turns the one that was neither the fastest
    nor the slowest.
    """
    turns = [
        result
        for _ in range(TURNS.get(name, 1))
        if (result := contend(name, setting, scratch)) is not None
    ]
    turns.sort(key=lambda result: result["seconds"])
    if not turns:
        return None
    return {**turns[len(turns) // 2], "turns": [result["seconds"] for result in turns]}


def contend(name: str, setting: dict[str, Any], scratch: Path) -> dict[str, Any] | None:
    """Runs one contender in a process of its own and says how it went; None where it
    failed.
    """
    given, left, place = (
        scratch / f"{name}.json",
        scratch / f"{name}-result.json",
        scratch / name,
    )
    own = (
        {name: setting["epochs"][name]}
        if name != "micro"
        else {**setting["epochs"], "thaw-head": setting["epochs"]["micro"]}
    )
    config = {**CONFIG.get(name, {}), **setting["config"]}
    given.write_text(
        json.dumps({**setting, "epochs": own, "config": config, "scratch": str(place)})
    )
    console.print(f"{name} …")
    began = time.perf_counter()
    with (scratch / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, str(HERE / SCRIPTS[name]), str(given), str(left)],
            stdout=log,
            stderr=log,
        )
        peak = Peak(process.pid)
        code = process.wait()
    if code:
        console.print(
            f"[red]{name} failed:[/red]\n{(scratch / f'{name}.log').read_text()[-3000:]}",
            markup=True,
        )
        return None
    result: dict[str, Any] = json.loads(left.read_text())[0]
    shutil.rmtree(place, ignore_errors=True)
    return {
        **result,
        "peak_bytes": peak.stop(),
        "wall_seconds": time.perf_counter() - began,
    }


class Peak(threading.Thread):
    """The most memory that a process and its children have held together (PSS: shared
    pages counted once).
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.pid, self.most, self.over = pid, 0, threading.Event()
        self.start()

    def run(self) -> None:
        while not self.over.wait(1.0):
            try:
                process = psutil.Process(self.pid)
                family = [process, *process.children(recursive=True)]
                self.most = max(self.most, sum(self._pss(member) for member in family))
            except psutil.Error:
                continue

    @staticmethod
    def _pss(process: psutil.Process) -> int:
        try:
            full = process.memory_full_info()
            return int(getattr(full, "pss", full.rss))
        except psutil.Error:
            return 0

    def stop(self) -> int:
        self.over.set()
        self.join()
        return self.most


# --- what it comes to -----------------------------------------------------------------
def summary(result: dict[str, Any]) -> dict[str, Any]:
    """The best epoch's accuracy counts, as every contender keeps its best epoch (the
    peers are given the same).
    """
    best = max((accuracy for _, _, accuracy in result["marks"]), default=0.0)
    low, high = wilson(best, result["examples"])
    return {
        **result,
        "accuracy": best,
        "low": low,
        "high": high,
        "reached": seconds_to(result["marks"], best),
        "images_per_second": result["images"] / result["seconds"],
    }


def wilson(share: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % score interval of a share (Wilson 1927)."""
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = (
        z
        * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
        / (1 + z * z / count)
    )
    return middle - half, middle + half


def seconds_to(marks: list[list[float]], accuracy: float) -> float | None:
    """When a contender first was that good, in seconds from its start."""
    return next(
        (seconds for seconds, _, reached in marks if reached >= accuracy - 1e-9), None
    )


def races(contenders: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Each of ours against each of the others: how long each takes to the other's best
    accuracy.
    """
    for ours in (
        name for name in contenders if name.startswith("thaw-") and name != WHOLE
    ):
        for other in (name for name in contenders if not name.startswith("thaw-")):
            theirs, goal = contenders[other]["reached"], contenders[other]["accuracy"]
            own = seconds_to(contenders[ours]["marks"], goal)
            yield {
                "ours": ours,
                "other": other,
                "accuracy": goal,
                "our_seconds": own,
                "their_seconds": theirs,
                "ratio": theirs / own if own and theirs else None,
                "target": TARGETS.get((ours, other)),
            }


def whole_run(contenders: dict[str, Any]) -> dict[str, Any] | None:
    """Seconds of a whole `thaw run` beside those of the fastest peer's bare training to
    its best epoch.
    """
    peers = {
        name: contenders[name]["reached"] for name in PACKAGES if name in contenders
    }
    if WHOLE not in contenders or not peers:
        return None
    fastest = min(peers, key=lambda name: peers[name])
    parts = contenders[WHOLE]["parts"]
    return {
        "peer": fastest,
        "peer seconds": peers[fastest],
        "with the comparison": parts["first"]["seconds"] / peers[fastest],
        "comparison remembered": parts["remembered"]["seconds"] / peers[fastest],
    }


def add_race_options(parser: argparse.ArgumentParser, result: str) -> None:
    """The options that the races of other tasks share.

    Args:
        result: the name of the result's file.
    """
    from pipeline.cores import cores

    parser.add_argument(
        "--threads",
        type=int,
        default=cores(),
        help="of each contender; default: all cores",
    )
    parser.add_argument(
        "--json",
        type=Path,
        default=HERE.parent / ".thaw" / result,
        help="the result's file",
    )


def machine() -> dict[str, Any]:
    names = [
        line.partition(":")[2].strip()
        for line in cpu_lines()
        if line.startswith("model name")
    ]
    packages = ("thaw", "torch", "torchvision", "pillow", "fastai", "lightning")
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {
            name: version(name)
            for name in packages
            if importlib.util.find_spec(PACKAGES.get(name, "os"))
        },
    }


def cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def show(report: dict[str, Any]) -> None:
    table = Table(
        "",
        "accuracy",
        "95 %",
        "s to it",
        "s in all",
        "images/s",
        "peak GB",
        title="contenders",
    )
    for name, r in report["contenders"].items():
        table.add_row(
            name,
            f"{r['accuracy']:.1%}",
            f"{r['low']:.1%}–{r['high']:.1%}",
            f"{r['reached'] or math.nan:.1f}",
            f"{r['seconds']:.1f}",
            f"{r['images_per_second']:.1f}",
            f"{r['peak_bytes'] / 1e9:.2f}",
        )
    console.print(table)
    table = Table(
        "",
        "to the accuracy of",
        "which is",
        "ours, s",
        "theirs, s",
        "ratio",
        "target",
        title="races",
    )
    for r in report["races"]:
        ours = "not reached" if r["our_seconds"] is None else f"{r['our_seconds']:.1f}"
        ratio = "—" if r["ratio"] is None else f"{r['ratio']:.1f}×"
        table.add_row(
            r["ours"],
            r["other"],
            f"{r['accuracy']:.1%}",
            ours,
            f"{r['their_seconds']:.1f}",
            ratio,
            f"≥ {r['target']}×" if r["target"] else "",
        )
    console.print(table)
    if WHOLE in report["contenders"]:
        console.print_json(json.dumps(report["contenders"][WHOLE]["parts"]))
        console.print_json(json.dumps(report["whole run"]))
    if report["micro"]:
        console.print_json(json.dumps(report["micro"]))


if __name__ == "__main__":
    main()
