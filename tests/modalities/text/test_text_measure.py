"""What the intake of texts refuses and measures, and which texts it takes for nearly
the same.
"""

from __future__ import annotations

import hashlib
import itertools

import pytest

from pipeline.context import SilentConsole
from pipeline.examples import ExampleFault, ListedExample, MeasuredExample
from pipeline.modalities.text.content import Texts, to_content
from pipeline.modalities.text.measure import measure_texts
from pipeline.modalities.text.settings import TextIntakeConfig
from pipeline.modalities.text.simhash import hash_texts


def measured(*texts: str, **intake: object) -> list[MeasuredExample | ExampleFault]:
    examples = [
        ListedExample(f"a.csv:{number}", "x", content=to_content(Texts(text)))
        for number, text in enumerate(texts)
    ]
    results = measure_texts(
        examples, TextIntakeConfig.model_validate(intake), SilentConsole()
    )
    return [results[example.path] for example in examples]


def distance(one: str, other: str) -> int:
    hashes = hash_texts([one, other])
    first, second = (int((value or "").removeprefix("s2-"), 16) for value in hashes)
    return (first ^ second).bit_count()


@pytest.mark.parametrize(
    ("text", "settings", "code"),
    [
        (" \n\u00a0", {}, "empty"),
        ("a\0b", {}, "control-characters"),
        ("a\x1bb", {}, "control-characters"),
        ("word " * 30, {"max_characters": 100}, "too-long"),
        ("  ab  ", {"min_characters": 3}, "too-short"),
    ],
)
def test_what_cannot_be_used_is_named(
    text: str, settings: dict[str, object], code: str
) -> None:
    (result,) = measured(text, **settings)
    assert isinstance(result, ExampleFault)
    assert result.code == code
    assert result.path == "a.csv:0"


def test_tabs_and_line_breaks_are_no_control_characters() -> None:
    results = measured("a\tb\r\nc", "a\0b", control_characters="keep")
    assert all(isinstance(result, MeasuredExample) for result in results)


def test_the_id_is_the_digest_of_the_content() -> None:
    (result,) = measured("schön")
    assert isinstance(result, MeasuredExample)
    assert result.id == hashlib.md5('{"text":"schön"}'.encode()).hexdigest()
    assert result.values["characters"] == 5
    assert result.values["words"] == 1


def test_letters_case_and_punctuation_do_not_matter_and_words_do() -> None:
    text = "The delivery took two weeks, and nobody answered my letters; I shall not order here again."
    assert distance(text, text.upper().replace(",", "").replace(";", " -- ")) == 0
    assert distance(text, text.replace("two weeks", "two whole weeks")) < 12
    assert (
        distance(
            text,
            "A wonderful shop with friendly people and everything arrived on the very next day!",
        )
        > 16
    )


def test_long_texts_of_one_language_are_not_alike() -> None:
    """What they share is the commonest words, again and again."""
    common = ["the", "and", "of", "to", "in", "that", "was", "for", "with", "not"]
    texts = []
    for name in ("b", "c", "d", "f", "g", "h"):
        own = [f"{name}{number}x" for number in range(400)]
        words = [word for rare in own for word in (*common, rare)]
        texts.append(" ".join(words))
    apart = [distance(one, other) for one, other in itertools.combinations(texts, 2)]
    assert min(apart) > 6


def test_hashes_do_not_depend_on_the_texts_beside() -> None:
    texts = ["no", "a", "yes of course", "die Straße " * 50, "好的好的"]
    alone = [hash_texts([text])[0] for text in texts]
    assert hash_texts(texts) == alone
    assert len(set(alone)) == len(texts)


def test_a_hash_is_the_same_on_every_machine() -> None:
    assert hash_texts(["So it goes.", "!!!"]) == ["s2-0c00659a793e040c", None]
