"""How good are Thaw's default recipes? Beside logistic regression on the same frozen features, fastai and Lightning.

    python bench/accuracy.py                       every data set: over an hour on two cores
    python bench/accuracy.py    --only cells-20          one of them
    python bench/accuracy.py    --json docs/accuracy.json

Thaw runs as a user runs it, by `thaw init` and `thaw run` with the recipe set `compare` and otherwise its defaults. The
others are given the very split that Thaw made. What each of Thaw's recipes scores on the test split was chosen on
validation; logistic regression's strength of regularisation too. fastai and Lightning are judged on the test split
after each epoch and their best epoch counts, which favours them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import xml.etree.ElementTree
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet
from PIL import Image
from rich.console import Console
from rich.table import Table
from run import (
    REAL,
    available,
    contend,
    hymenoptera_setting,
    machine,
    shipped_setting,
    wilson,
)
from whole_run import command

EPOCHS = {"fastai": 4, "lightning": 5}
# C of logistic regression, which divides the penalty.
STRENGTHS = (1.0, 0.1, 0.01, 0.001)
CELL_PICTURES = {"train": "train", "val": "val", "test": "test"}
TEST_CELLS = 70  # a class
MARGIN = 0.25  # of a cell's box, cut with it on every side
console = Console()


class DataSet(NamedTuple):
    """A data set of the comparison.

    Args:
        prepare: writes the examples below a folder and returns the folder that `thaw
            init --data` is given.
        setting: network and weights, as the benchmark's contenders take them.
        init: further options of `thaw init`.
    """

    prepare: Callable[[Path], Path]
    setting: Callable[[], dict[str, Any]]
    init: tuple[str, ...] = ()


def hymenoptera(folder: Path) -> Path:
    """The photographs where they are: they come with train and val."""
    return REAL / "data" / "hymenoptera"


def sample(folder: Path) -> Path:
    """The generated sample."""
    from pipeline.data.sample import generate

    generate(folder)
    return folder


def cells(each: int) -> Callable[[Path], Path]:
    """Single blood cells cut from annotated pictures, `each` a class to train on; no
    picture is in two splits.
    """

    def prepare(folder: Path) -> Path:
        source = REAL / "data" / "bccd"
        limits = {"train": each, "val": max(10, each // 4), "test": TEST_CELLS}
        for split, listed in CELL_PICTURES.items():
            taken: dict[str, int] = defaultdict(int)
            for name in (
                (source / "ImageSets" / "Main" / f"{listed}.txt").read_text().split()
            ):
                for label, cell in cells_of(source, name):
                    if taken[label] < limits[split]:
                        taken[label] += 1
                        path = folder / split / label / f"{name}-{taken[label]}.png"
                        path.parent.mkdir(parents=True, exist_ok=True)
                        cell.save(path)
        return folder

    return prepare


def cells_of(source: Path, name: str) -> list[tuple[str, Image.Image]]:
    """The cells of a picture: label and cut-out, at most one a class, so that no
    picture gives most of them.
    """
    tree = xml.etree.ElementTree.parse(source / "Annotations" / f"{name}.xml")
    picture = Image.open(source / "JPEGImages" / f"{name}.jpg").convert("RGB")
    found: dict[str, Image.Image] = {}
    for subject in tree.iterfind("object"):
        label = subject.findtext("name", "")
        edges = [
            int(subject.findtext(f"bndbox/{edge}", "0"))
            for edge in ("xmin", "ymin", "xmax", "ymax")
        ]
        left, top, right, bottom = edges
        if min(right - left, bottom - top) < 16:
            continue
        across, down = MARGIN * (right - left), MARGIN * (bottom - top)
        box = (
            max(0, left - across),
            max(0, top - down),
            min(640, right + across),
            min(480, bottom + down),
        )
        found.setdefault(label, picture.crop(tuple(round(edge) for edge in box)))
    return list(found.items())


SETS = {
    "hymenoptera": DataSet(
        hymenoptera, hymenoptera_setting, ("--given-val-as", "test")
    ),
    "cells-20": DataSet(cells(20), hymenoptera_setting),
    "cells-120": DataSet(cells(120), hymenoptera_setting),
    "sample": DataSet(sample, shipped_setting),
}


def main() -> None:
    options = arguments()
    report: dict[str, Any] = {"machine": machine(), "sets": {}}
    for name in options.only or SETS:
        with tempfile.TemporaryDirectory(prefix="thaw-accuracy-") as scratch:
            console.print(f"{name} …")
            report["sets"][name] = compare(SETS[name], Path(scratch), options.seed)
        show(name, report["sets"][name])
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    console.print(f"written to {options.json}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", choices=list(SETS), help="these data sets alone"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--json",
        type=Path,
        default=Path(".thaw/accuracy.json"),
        help="where the result goes",
    )
    return parser.parse_args()


def compare(dataset: DataSet, scratch: Path, seed: int) -> dict[str, Any]:
    """Every contender's test accuracy on one data set: name → value, low, high."""
    setting = dataset.setting()
    data = dataset.prepare(scratch / "data")
    workspace = scratch / "workspace"
    results = thaw(dataset, setting, data, workspace, seed)
    split = same_split(workspace, scratch / "split")
    results["logistic regression"] = logistic_regression(setting, split)
    for peer in EPOCHS:
        if available(peer):
            results[peer] = judged_by_epoch(peer, setting, split, scratch, seed)
    return results


def thaw(
    dataset: DataSet, setting: dict[str, Any], data: Path, workspace: Path, seed: int
) -> dict[str, Any]:
    """All of Thaw's built-in recipes, by its command."""
    init = [
        "init",
        str(workspace),
        "--data",
        str(data),
        "--recipe",
        "compare",
        *dataset.init,
    ]
    network = [
        "--backbone",
        f"torchvision/{setting['architecture']}",
        "--weights",
        setting["weights_reference"],
    ]
    command(*init, *network)
    params = workspace / "params.yaml"
    values = params.read_text().replace(
        "\n  seed: 0\n  batch_size", f"\n  seed: {seed}\n  batch_size"
    )
    params.write_text(values)
    command("run", cwd=workspace)
    record = json.loads(
        (workspace / "artifacts" / "evaluate" / "record.json").read_text()
    )
    metrics = {record["candidate"]: record["metrics"], **record["others"]}
    return {
        f"thaw {name}": {
            **found["accuracy"],
            "examples": record["examples"],
            "chosen": name == record["candidate"],
        }
        for name, found in metrics.items()
    }


def same_split(workspace: Path, folder: Path) -> Path:
    """Thaw's split as folders: train, val and test, by class."""
    table = pyarrow.parquet.read_table(
        workspace / "artifacts" / "split" / "manifest.parquet"
    )
    for row in table.select(["id", "path", "target", "split"]).to_pylist():
        source = workspace / "data" / row["path"]
        target = folder / row["split"] / row["target"] / f"{row['id']}{source.suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return folder


def logistic_regression(setting: dict[str, Any], split: Path) -> dict[str, Any]:
    """scikit-learn's, on the standardised features that the backbone's last layer
    takes; C chosen on validation.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    x, y = features(setting, split)
    models = []
    for strength in STRENGTHS:
        model = make_pipeline(
            StandardScaler(), LogisticRegression(C=strength, max_iter=5000)
        )
        models.append(model.fit(x["train"], y["train"]))
    best = max(models, key=lambda model: model.score(x["val"], y["val"]))
    return estimate(best.score(x["test"], y["test"]), len(y["test"]))


def features(
    setting: dict[str, Any], split: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the last layer of the pretrained network takes, and the class, of every
    example of each split.
    """
    import numpy as np
    import torch
    from common import Setting, last_layer, pretrained
    from torchvision import datasets, transforms

    network = pretrained(Setting(**contender_setting(setting, split, {}, 0, "")))
    parent, name, _ = last_layer(network)
    setattr(parent, name, torch.nn.Identity())
    network.eval()
    presented = transforms.Compose(
        [
            transforms.Resize(setting["resize"]),
            transforms.CenterCrop(setting["size"]),
            transforms.ToTensor(),
            transforms.Normalize(setting["mean"], setting["std"]),
        ]
    )
    x: dict[str, Any] = {}
    y: dict[str, Any] = {}
    for part in ("train", "val", "test"):
        images = datasets.ImageFolder(str(split / part), presented)
        with torch.inference_mode():
            batches = [
                network(batch)
                for batch, _ in torch.utils.data.DataLoader(images, batch_size=32)
            ]
        x[part] = torch.cat(batches).numpy()
        y[part] = np.array(images.targets)
    return x, y


def judged_by_epoch(
    peer: str, setting: dict[str, Any], split: Path, scratch: Path, seed: int
) -> dict[str, Any]:
    """A peer trained on train and judged on test after each epoch: its best epoch."""
    folder = scratch / peer
    folder.mkdir()
    shutil.copytree(split / "train", folder / "data" / "train")
    shutil.copytree(split / "test", folder / "data" / "val")
    result = contend(
        peer, contender_setting(setting, folder / "data", EPOCHS, seed, ""), folder
    )
    if result is None:
        return {}
    best = max(accuracy for _, _, accuracy in result["marks"])
    return estimate(best, result["examples"])


def contender_setting(
    setting: dict[str, Any], data: Path, epochs: dict[str, int], seed: int, scratch: str
) -> dict[str, Any]:
    """The setting of the benchmark's contenders for this split."""
    own = {key: value for key, value in setting.items() if key != "weights_reference"}
    return {
        **own,
        "data": str(data),
        "epochs": epochs,
        "threads": 2,
        "seed": seed,
        "scratch": scratch,
        "config": {},
    }


def estimate(share: float, examples: int) -> dict[str, Any]:
    low, high = wilson(share, examples)
    return {"value": share, "low": low, "high": high, "examples": examples}


def show(name: str, results: dict[str, Any]) -> None:
    table = Table("", "test accuracy", "95 %", title=name)
    for contender, found in results.items():
        if found:
            mark = " (chosen)" if found.get("chosen") else ""
            table.add_row(
                contender + mark,
                f"{found['value']:.1%}",
                f"{found['low']:.1%}–{found['high']:.1%}",
            )
    console.print(table)


if __name__ == "__main__":
    main()
