"""Weights files are read without running what they hold, and named when they are not
what they should be.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pipeline.errors import BackboneError
from pipeline.models import weights
from pipeline.models.network import state_to_save
from pipeline.models.providers.torchvision import blocks, torchvision_models


class Bomb:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.mark,)


def unreadable(path: Path) -> BackboneError:
    with pytest.raises(BackboneError) as caught:
        weights.read_weights(path)
    assert str(path) in caught.value.subject
    return caught.value


class TestCode:
    @pytest.mark.parametrize("form", ["zip", 2, 5])
    def test_a_pickle_with_code_is_refused_and_the_code_not_run(
        self, tmp_path: Path, form: str | int
    ) -> None:
        mark, path = tmp_path / "mark", tmp_path / "net.pth"
        content = {"weight": torch.zeros(2), "bomb": Bomb(mark)}
        if isinstance(form, int):
            path.write_bytes(pickle.dumps(content, protocol=form))
        else:
            torch.save(content, path)
        fault = unreadable(path)
        assert "more than tensors" in fault.found
        assert "nothing in it was run" in fault.hint
        assert not mark.exists()

    @pytest.mark.parametrize("form", ["zip", "plain"])
    def test_the_code_would_have_run_otherwise(self, tmp_path: Path, form: str) -> None:
        mark, path = tmp_path / "mark", tmp_path / "net.pth"
        if form == "zip":
            torch.save(Bomb(mark), path)
            torch.load(path, weights_only=False)
        else:
            path.write_bytes(pickle.dumps(Bomb(mark), protocol=2))
            pickle.loads(path.read_bytes())  # noqa: S301
        assert mark.exists()


class TestDamage:
    @pytest.mark.parametrize(
        "content",
        [
            b"",
            b"\x00",
            b"\xff" * 100,
            b"\x02\x00\x00\x00\x00\x00\x00\x00{}" + b"x" * 10,
            b"\x10\x00\x00\x00\x00\x00\x00\x00not json at all!",
            (1 << 62).to_bytes(8, "little") + b"{}",
            b"PK\x03\x04" + b"\x00" * 100,
            b"\x80\x02garbage",
        ],
    )
    def test_a_broken_file_is_a_fault_not_a_crash(
        self, tmp_path: Path, content: bytes
    ) -> None:
        path = tmp_path / "net.safetensors"
        path.write_bytes(content)
        unreadable(path)

    @pytest.mark.parametrize("suffix", ["safetensors", "pth"])
    def test_a_file_cut_short(self, tmp_path: Path, suffix: str) -> None:
        path = tmp_path / f"net.{suffix}"
        content = {"weight": torch.randn(100, 100)}
        save_file(content, path) if suffix == "safetensors" else torch.save(
            content, path
        )
        path.write_bytes(path.read_bytes()[:-1000])
        unreadable(path)

    def test_a_web_page(self, tmp_path: Path) -> None:
        path = tmp_path / "net.pth"
        path.write_bytes(b"\n <!DOCTYPE html><html></html>")
        assert "web page" in unreadable(path).found

    def test_values_that_are_not_finite_are_named(self, tmp_path: Path) -> None:
        path = tmp_path / "net.safetensors"
        save_file(
            {"good": torch.zeros(2), "bad": torch.tensor([1.0, float("nan")])}, path
        )
        assert "in bad" in unreadable(path).found

    @pytest.mark.parametrize(
        "content", [[torch.zeros(2)], {"weight": "text"}, torch.zeros(2)]
    )
    def test_something_else_than_a_state_dict(
        self, tmp_path: Path, content: object
    ) -> None:
        torch.save(content, tmp_path / "net.pth")
        assert "not a state dict" in unreadable(tmp_path / "net.pth").found


class TestForms:
    def test_half_precision_becomes_fp32_and_counts_stay_counts(
        self, tmp_path: Path
    ) -> None:
        save_file(
            {"w": torch.ones(2, dtype=torch.float16), "n": torch.tensor(3)},
            tmp_path / "net.safetensors",
        )
        state = weights.read_weights(tmp_path / "net.safetensors").state
        assert {key: value.dtype for key, value in state.items()} == {
            "w": torch.float32,
            "n": torch.int64,
        }

    @pytest.mark.parametrize(
        "wrap",
        [lambda s: s, lambda s: {"model": s, "epoch": 3}, lambda s: {"state_dict": s}],
    )
    def test_a_checkpoint_is_opened_as_far_as_its_weights(
        self, tmp_path: Path, wrap: object
    ) -> None:
        torch.save(wrap({"module.w": torch.ones(2)}), tmp_path / "net.pth")  # type: ignore[operator]
        assert list(weights.read_weights(tmp_path / "net.pth").state) == ["w"]

    def test_a_safetensors_file_may_begin_like_a_pickle(self, tmp_path: Path) -> None:
        path = tmp_path / "net.safetensors"
        for padding in range(0, 400, 8):
            save_file({"w": torch.ones(2)}, path, {"note": "x" * padding})
            if path.read_bytes()[0] == 0x80:
                break
        else:
            pytest.fail("no such file was made")
        assert list(weights.read_weights(path).state) == ["w"]

    def test_metadata_comes_along(self, tmp_path: Path) -> None:
        metadata = {"size": "96", "mean": json.dumps([0.1, 0.2, 0.3])}
        save_file({"w": torch.ones(2)}, tmp_path / "net.safetensors", metadata)
        assert weights.read_weights(tmp_path / "net.safetensors").metadata == metadata

    def test_densenets_old_names_and_missing_counters_are_understood(
        self, tmp_path: Path
    ) -> None:
        source = state_to_save(blocks.build_network("densenet121", 3))
        old = {
            key.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): value
            for key, value in source.items()
            if not key.endswith("num_batches_tracked")
        }
        assert set(old) - set(source)
        torch.save(old, tmp_path / "net.pth")
        model = blocks.build_network("densenet121", 3, meta=True)
        torchvision_models.fill_network(
            model.stock, weights.read_weights(tmp_path / "net.pth").state, "old"
        )
        assert all(
            torch.equal(value, source[key])
            for key, value in state_to_save(model).items()
        )

    @pytest.mark.parametrize("side", [64, 224])
    def test_a_transformers_size_is_read_from_its_positions(self, side: int) -> None:
        state = blocks.build_network(
            "vit_b_32", 3, size=side, meta=True
        ).stock.state_dict()
        assert torchvision_models.find_image_side(state) == side
        assert (
            torchvision_models.find_image_side({"fc.weight": torch.zeros(2, 2)}) is None
        )
