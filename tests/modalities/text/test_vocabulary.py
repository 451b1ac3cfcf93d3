"""Words that came since the last accepted version."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pyarrow as pa
import pytest

from pipeline.data.sample_surfaces import Dice
from pipeline.modalities.text.content import Texts, to_content
from pipeline.modalities.text.review_grammar import write_review
from pipeline.modalities.text.settings import TextIntakeConfig
from pipeline.modalities.text.vocabulary import (
    find_unseen_words,
    measure_vocabulary_drift,
)


def manifest(texts: Sequence[str]) -> pa.Table:
    contents = [to_content(Texts(text)) for text in texts]
    ids = [hashlib.md5(content.encode()).hexdigest() for content in contents]
    return pa.table({"id": ids, "content": contents})


def reviews(domain: str, start: int, count: int) -> list[str]:
    return [
        write_review(Dice(0, 5, number), "positive", domain, 2, 1)
        for number in range(start, start + count)
    ]


BEFORE = reviews("kitchen", 0, 400)


def test_more_of_the_same_kind_is_no_drift() -> None:
    now = manifest([*BEFORE, *reviews("kitchen", 400, 200)])
    (measure,) = measure_vocabulary_drift(now, manifest(BEFORE), TextIntakeConfig())
    assert measure.value < measure.limit


def test_another_subject_is_told_with_its_words() -> None:
    now = manifest([*BEFORE, *reviews("travel", 400, 200)])
    (measure,) = measure_vocabulary_drift(now, manifest(BEFORE), TextIntakeConfig())
    assert measure.value > measure.limit
    assert any(item.startswith("breakfast: in ") for item in measure.items)


def test_what_chance_explains_is_estimated_from_words_of_one_text() -> None:
    before = manifest([f"common word{number}" for number in range(100)])
    unseen = find_unseen_words(
        manifest([f"common new{number}" for number in range(50)]), before
    )
    assert unseen is not None
    assert (unseen.share, unseen.expected, unseen.excess) == (0.5, 0.5, 0.0)


@pytest.mark.parametrize("added", [0, 5])
def test_of_few_new_texts_nothing_is_said(added: int) -> None:
    now = manifest([*BEFORE, *reviews("travel", 400, added)])
    assert measure_vocabulary_drift(now, manifest(BEFORE), TextIntakeConfig()) == []


def test_files_have_no_words() -> None:
    table = pa.table({"id": ["a"], "path": ["a.png"]})
    assert find_unseen_words(table, table) is None
