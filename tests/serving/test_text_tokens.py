"""Texts as tokens: what the codec and a served model both do."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.serving import text_tokens
from tokenizer_builders import SPECIAL, WORDS, write_tokenizer

VOCABULARY = SPECIAL + WORDS
CLS, SEP = VOCABULARY.index("[CLS]"), VOCABULARY.index("[SEP]")


@pytest.fixture
def tokenizer(tmp_path: Path) -> Any:
    write_tokenizer(tmp_path)
    return text_tokens.load_tokenizer(tmp_path)


def words(ids: np.ndarray) -> list[str]:
    return [VOCABULARY[number] for number in ids]


def test_a_text_keeps_its_special_tokens_and_is_not_padded(tokenizer: Any) -> None:
    encoded = text_tokens.encode(tokenizer, ["The film was GOOD", "dull"], None, 16)
    assert words(encoded.ids[0]) == ["[CLS]", "the", "film", "was", "good", "[SEP]"]
    assert words(encoded.ids[1]) == ["[CLS]", "dull", "[SEP]"]
    assert encoded.full_lengths.tolist() == [6, 3]
    assert encoded.ids[0].dtype == np.int32
    assert encoded.type_ids[0].dtype == np.int8


def test_what_the_tokenizer_file_says_of_truncation_does_not_count(
    tokenizer: Any,
) -> None:
    encoded = text_tokens.encode(
        tokenizer, ["the film was very very very good"], None, 16
    )
    assert len(encoded.ids[0]) == 9


def test_a_long_text_is_cut_behind_and_its_full_length_told(tokenizer: Any) -> None:
    texts = ["good", "the film was very good", "bad"]
    encoded = text_tokens.encode(tokenizer, texts, None, 5)
    assert words(encoded.ids[1]) == ["[CLS]", "the", "film", "was", "[SEP]"]
    assert encoded.full_lengths.tolist() == [3, 7, 3]
    assert [len(ids) for ids in encoded.ids] == [3, 5, 3]


def test_of_a_pair_the_longer_text_is_shortened_first(tokenizer: Any) -> None:
    encoded = text_tokens.encode(
        tokenizer, ["good"], ["the plot was very very dull"], 7
    )
    assert words(encoded.ids[0]) == [
        "[CLS]",
        "good",
        "[SEP]",
        "the",
        "plot",
        "was",
        "[SEP]",
    ]
    assert encoded.type_ids[0].tolist() == [0, 0, 0, 1, 1, 1, 1]


def test_a_pair_must_have_two_texts(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="shorter"):
        text_tokens.encode(tokenizer, ["good", "bad"], ["film"], 8)


def test_what_a_text_becomes_does_not_depend_on_how_many_are_encoded(
    tokenizer: Any,
) -> None:
    texts = [
        " ".join(WORDS[: number % 9 + 1]) for number in range(text_tokens.CHUNK + 10)
    ]
    together = text_tokens.encode(tokenizer, texts, None, 8)
    assert len(together.ids) == len(texts)
    for number in (0, 8, text_tokens.CHUNK - 1, text_tokens.CHUNK, len(texts) - 1):
        alone = text_tokens.encode(tokenizer, [texts[number]], None, 8)
        assert np.array_equal(alone.ids[0], together.ids[number])
        assert alone.full_lengths[0] == together.full_lengths[number]


def test_no_texts_are_no_tokens(tokenizer: Any) -> None:
    encoded = text_tokens.encode(tokenizer, [], None, 8)
    assert encoded.ids == []
    assert encoded.full_lengths.shape == (0,)


def test_threads_may_share_a_tokenizer(tokenizer: Any) -> None:
    texts = ["the film was very very very good", "bad"] * 40

    def longest(limit: int) -> int:
        return max(
            len(ids) for ids in text_tokens.encode(tokenizer, texts, None, limit).ids
        )

    limits = [4, 20] * 40
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(longest, limits)) == [min(limit, 9) for limit in limits]


@pytest.mark.parametrize("before", [None, "true"])
def test_the_environment_is_as_it_was(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, before: str | None
) -> None:
    if before is None:
        monkeypatch.delenv(text_tokens.PARALLELISM, raising=False)
    else:
        monkeypatch.setenv(text_tokens.PARALLELISM, before)
    text_tokens.encode(tokenizer, ["good"], None, 8)
    assert os.environ.get(text_tokens.PARALLELISM) == before


def test_the_padded_length_follows_from_the_text_alone() -> None:
    counts = [0, 1, 31, 32, 33, 127, 128, 500]
    lengths = [text_tokens.padded_length(count, 32, 128) for count in counts]
    assert lengths == [32, 32, 32, 32, 64, 128, 128, 128]
    assert text_tokens.padded_length(100, 32, 100) == 100


def test_padding_fills_up_behind() -> None:
    rows = [np.array([7, 8, 9], np.int32), np.array([5], np.int32)]
    padded = text_tokens.pad(rows, 4, 1)
    assert padded.dtype == np.int64
    assert padded.tolist() == [[7, 8, 9, 1], [5, 1, 1, 1]]
