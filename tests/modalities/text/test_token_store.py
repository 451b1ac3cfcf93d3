"""Texts as tokens: encoded once, padded by their own length alone, and what is cut off
is said.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from consoles import RecordingConsole
from pipeline.context import SilentConsole
from pipeline.errors import DataError
from pipeline.modalities.text import token_store
from pipeline.modalities.text.content import Texts, to_content
from pipeline.modalities.text.token_store import TokenStore, open_token_store
from pipeline.records import BackboneRecord, TextInputSpec
from text_candidates import make_backbone, texts

SPEC = TextInputSpec(max_tokens=48, pooling="mean", columns=("text",))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> BackboneRecord:
    return make_backbone(tmp_path_factory.mktemp("backbone") / "bert")


def opened(
    backbone: BackboneRecord,
    scratch: Path,
    contents: list[str],
    spec: TextInputSpec = SPEC,
    console: SilentConsole | None = None,
    limit_gb: float = 1.0,
) -> TokenStore:
    ids = [f"{number:04d}" for number in range(len(contents))]
    return open_token_store(
        spec,
        ids,
        contents,
        backbone.folder,
        scratch,
        limit_gb,
        console or SilentConsole(),
    )


def contents(count: int) -> list[str]:
    return [to_content(Texts(text)) for text in texts(count)]


def test_rows_of_one_length_come_as_one_batch(
    backbone: BackboneRecord, tmp_path: Path
) -> None:
    store = opened(backbone, tmp_path, contents(40))
    lengths = store.shapes(np.arange(40))
    assert set(lengths.tolist()) == {32, 48}
    rows = np.flatnonzero(lengths == 32)
    batch = store.batch(rows)
    assert set(batch.tensors) == {"input_ids", "attention_mask"}
    assert batch.tensors["input_ids"].shape == (len(rows), 32)
    assert batch.tensors["input_ids"].dtype == torch.int64
    mask = batch.tensors["attention_mask"]
    assert (batch.tensors["input_ids"][mask == 0] == 0).all()
    assert (batch.tensors["input_ids"][:, 0] == 2).all()  # [CLS]


def test_a_row_is_the_same_alone_and_among_others_and_in_any_order(
    backbone: BackboneRecord, tmp_path: Path
) -> None:
    given = contents(20)
    store = opened(backbone, tmp_path, given)
    ids = [f"{number:04d}" for number in range(20)][::-1]
    other = open_token_store(
        SPEC, ids, given[::-1], backbone.folder, tmp_path, 1.0, SilentConsole()
    )
    for row in range(20):
        one = store.batch(np.array([row])).tensors["input_ids"]
        assert torch.equal(one, other.batch(np.array([19 - row])).tensors["input_ids"])


def test_what_is_kept_is_not_encoded_again(
    backbone: BackboneRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened(backbone, tmp_path, contents(10)).batch(np.array([0]))
    monkeypatch.setattr(token_store, "_encode", None)
    again = opened(backbone, tmp_path, contents(10)).batch(np.array([0]))
    assert torch.equal(first.tensors["input_ids"], again.tensors["input_ids"])


def test_a_damaged_store_is_made_anew(backbone: BackboneRecord, tmp_path: Path) -> None:
    first = opened(backbone, tmp_path, contents(10)).batch(np.array([3]))
    (ids,) = tmp_path.rglob("ids.npy")
    ids.write_bytes(ids.read_bytes()[:-40])
    again = opened(backbone, tmp_path, contents(10)).batch(np.array([3]))
    assert torch.equal(first.tensors["input_ids"], again.tensors["input_ids"])


def test_what_is_cut_off_is_said_each_time(
    backbone: BackboneRecord, tmp_path: Path
) -> None:
    given = [
        to_content(Texts("so " * 46)),
        to_content(Texts("so " * 56)),
        to_content(Texts("so it goes")),
    ]
    for _ in range(2):
        console = RecordingConsole()
        opened(backbone, tmp_path, given, console=console)
        assert console.lines == [
            "1 of 3 texts are longer than 48 tokens and are cut, by 10 tokens in the median and 10 at most "
            "(task.input.max_tokens)"
        ]


def test_by_how_much_texts_are_longer_is_counted_over_all_of_them(
    backbone: BackboneRecord, tmp_path: Path
) -> None:
    """[CLS] and [SEP] take two of the 48 tokens; every word is one."""
    lengths = [5, 46, 47, 50, 56, 146]
    given = [to_content(Texts("so " * length)) for length in lengths]
    for _ in range(2):  # encoded, then read from the disk
        truncated = opened(backbone, tmp_path, given).truncated_texts
        assert truncated.examples == 6
        assert truncated.truncated == 4
        assert truncated.median_excess == 10
        assert truncated.max_excess == 100


def test_where_every_text_fits_nothing_is_said(
    backbone: BackboneRecord, tmp_path: Path
) -> None:
    console = RecordingConsole()
    store = opened(
        backbone, tmp_path, [to_content(Texts("so it goes"))], console=console
    )
    assert console.lines == []
    assert (
        store.truncated_texts.describe() == "none of 1 texts is longer than 48 tokens"
    )


def test_without_room_on_the_disk_tokens_are_held_in_memory(
    backbone: BackboneRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(made: object, folder: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(token_store, "_write", refuse)
    console = RecordingConsole()
    store = opened(backbone, tmp_path, contents(10), console=console)
    assert store.batch(np.array([0])).tensors["input_ids"].shape[0] == 1
    assert "held in memory" in console.lines[0]
    assert not list((tmp_path / "tokens").iterdir())


def test_what_was_used_longest_ago_goes_first(
    backbone: BackboneRecord, tmp_path: Path
) -> None:
    for count in (10, 20, 30):
        opened(backbone, tmp_path, contents(count), limit_gb=4e-6)
    assert len(list((tmp_path / "tokens").iterdir())) < 3


def test_the_second_text_of_a_pair_is_told_apart(
    backbone: BackboneRecord, tmp_path: Path
) -> None:
    pair = TextInputSpec(max_tokens=48, pooling="mean", columns=("text", "pair"))
    store = opened(
        backbone, tmp_path, [to_content(Texts("so it goes", "it was good"))], pair
    )
    tensors = store.batch(np.array([0])).tensors
    types = tensors["token_type_ids"][0]
    assert types.sum() == 4  # three words and [SEP]
    assert not types[tensors["attention_mask"][0] == 0].any()


def test_a_network_without_types_is_told_none(tmp_path: Path) -> None:
    backbone = make_backbone(tmp_path / "distilbert", "distilbert")
    pair = TextInputSpec(max_tokens=48, pooling="mean", columns=("text", "pair"))
    store = opened(
        backbone, tmp_path, [to_content(Texts("so it goes", "it was good"))], pair
    )
    assert "token_type_ids" not in store.batch(np.array([0])).tensors


def test_without_a_tokenizer_it_is_said_where_one_belongs(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"tokenizer\.json"):
        open_token_store(SPEC, ["a"], ["{}"], tmp_path, tmp_path, 1.0, SilentConsole())
