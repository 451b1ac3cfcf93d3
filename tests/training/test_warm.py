"""Warm start: the champion's weights, the head by class name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import TrainingError
from pipeline.models.network import ClassRows
from pipeline.training import members, warm_start
from tiny import TinyModel

HEAD = {"head.1.weight": ClassRows(0, 1), "head.1.bias": ClassRows(0, 1)}


def test_head_rows_follow_their_class_by_name() -> None:
    fresh, champion = (
        TinyModel(4, seed=1).stock.state_dict(),
        TinyModel(3, seed=2).stock.state_dict(),
    )
    labels, known = ("ant", "bee", "crow", "dove"), ("dove", "bee", "elk")
    state = warm_start.warm_start(fresh, champion, labels, known, HEAD)
    for name in HEAD:
        assert torch.equal(state[name][3], champion[name][0])
        assert torch.equal(state[name][1], champion[name][1])
        assert torch.equal(state[name][[0, 2]], fresh[name][[0, 2]])
    assert torch.equal(state["low.0.weight"], champion["low.0.weight"])
    assert torch.equal(state["low.1.running_mean"], champion["low.1.running_mean"])


def test_reordered_labels_are_no_trap() -> None:
    fresh, champion = (
        TinyModel(3, seed=1).stock.state_dict(),
        TinyModel(3, seed=2).stock.state_dict(),
    )
    state = warm_start.warm_start(
        fresh, champion, ("c", "a", "b"), ("a", "b", "c"), HEAD
    )
    assert torch.equal(state["head.1.weight"], champion["head.1.weight"][[2, 0, 1]])


def test_a_champion_of_another_network_is_refused_by_tensor() -> None:
    fresh, champion = (
        TinyModel().stock.state_dict(),
        dict(TinyModel().stock.state_dict()),
    )
    champion["low.0.weight"] = torch.zeros(6, 3, 5, 5)
    champion["extra"] = torch.zeros(1)
    with pytest.raises(TrainingError, match="do not fit") as fault:
        warm_start.warm_start(fresh, champion, ("a", "b", "c"), ("a", "b", "c"), HEAD)
    assert sorted(fault.value.details) == [
        "extra: missing here, 1 in the champion",
        "low.0.weight: 6 × 3 × 3 × 3 here, 6 × 3 × 5 × 5 in the champion",
    ]


def test_a_model_is_started_from_a_champions_file(tmp_path: Path) -> None:
    champion = TinyModel(2, seed=2)
    save_file(champion.stock.state_dict(), tmp_path / "champion.safetensors")
    model = TinyModel(3, seed=1)
    found = warm_start.Champion(
        tmp_path / "champion.safetensors", ("x", "y"), "", members.SCHEMA.empty_table()
    )
    warm_start.load_champion(model, found, ("x", "y", "z"))  # type: ignore[arg-type]
    assert torch.equal(
        model.stock["head"][1].weight[:2], champion.stock["head"][1].weight
    )


def test_rows_of_a_background_and_several_rows_a_class_follow_too() -> None:
    """As a detector has them: 4 numbers a class, the background's first."""
    fresh = {"box": torch.arange(12.0) + 100}
    champion = {"box": torch.arange(12.0)}
    state = warm_start.warm_start(
        fresh, champion, ("b", "new"), ("a", "b"), {"box": ClassRows(4, 4)}
    )
    assert state["box"].tolist() == [0, 1, 2, 3, 8, 9, 10, 11, 108, 109, 110, 111]


def test_a_detector_says_which_rows_are_its_classes() -> None:
    from dense_networks import detector, segmenter

    for network in (detector("mobilenet_v2"), segmenter("mobilenet_v2")):
        rows = warm_start.find_class_rows(
            network, network.stock.state_dict(), network.classes
        )
        assert rows
        for name, own in rows.items():
            assert network.stock.state_dict()[name].shape[0] == own.count(
                network.classes
            )
