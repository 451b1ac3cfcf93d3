"""The model card says what records and journal say, and shows other people's text as
text.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from example_run import HOSTILE, LABELS, Made, make
from pipeline import redaction
from pipeline.config import Config, parse
from pipeline.promotion_journal import Entry
from pipeline.records import Finding
from pipeline.report.card_decisions import LONGEST_DESCRIPTION, restate, restate_card
from pipeline.report.markdown import escape, prose
from pipeline.report.model_card import (
    CardFacts,
    describe_version,
    list_refusals,
    write_card,
)

SECTIONS = [  # Mitchell et al. 2019, figure 1
    "Model details",
    "Intended use",
    "Factors",
    "Metrics",
    "Evaluation data",
    "Training data",
    "Quantitative analyses",
    "Caveats and recommendations",
    "Decisions",
]
ODD = "a|b\n`<b>` *x* _y_ [z](http://x) $k$ \u202e"


def entry(kind: Any, version: str, champion: str = "", **more: str) -> Entry:
    values = {
        "by": "ines@lab",
        "reason": "because",
        "time": "2026-11-27T10:00:00+00:00",
        **more,
    }
    return Entry(kind=kind, champion=champion, version=version, **values)


FACTS = CardFacts(
    model="surfaces",
    version="3",
    created=1_795_000_000_000,
    tags={"data.md5": "0123.dir", "data.files": "413", "git.revision": "9464c65aa21e"},
    served={"limits": {"max_bytes": 1000, "single_frame": True}},
    timing={
        "seconds": 48.2,
        "stages": {"head": {"train": 4.0, "step": 3.9, "examples": 100.0}},
    },
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(
        tmp_path_factory.mktemp("hostile"),
        labels=(*LABELS[:2], HOSTILE, ODD, "x" * 300),
        hostile=True,
    )


def render(text: str) -> tuple[str, str]:
    """The HTML of a card, and the text that a reader sees."""
    markdown_it = pytest.importorskip("markdown_it")  # which comes with rich
    parser = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table")
    seen = []
    for token in parser.parse(text):
        for child in token.children or ():
            seen.append(child.content)
    return parser.render(text), " ".join(seen)


def test_the_sections_are_those_of_the_field_in_their_order(made: Made) -> None:
    card = write_card(made.run, Config(), FACTS)
    assert [
        line[3:] for line in card.splitlines() if line.startswith("## ")
    ] == SECTIONS
    assert card == write_card(made.run, Config(), FACTS), (
        "the same records, the same card"
    )


def test_it_says_what_the_records_say(made: Made) -> None:
    card = write_card(made.run, Config(), FACTS).replace("\u202f", " ")
    accuracy = made.run.evaluate.metrics["accuracy"]
    for told in (
        f"{100 * accuracy.value:.1f} % ({100 * accuracy.low:.1f}–{100 * accuracy.high:.1f}) on 63 test examples",
        "registered on 2026-11-18",
        r"torchvision/mobilenet\_v3\_small",
        "`9464c65aa21e`",
        "3 examples could not be used",
        "| truncated | 2 | ok/part-091-1.png, stain/part-044-0.png |",
        "4 sets of near-duplicates were kept",
        "| head | head | 14 blocks | 5 |",
        "4.0 s |",
        "In all it took 48 s",
        "Against training from scratch: ",
        "- a file of more than 1,000 bytes",
        "- a file of several frames or pages",
        "Mean confidence",
        "| Gain in accuracy | +4.0 points (+1.0 points to +7.0 points) |",
        "Nobody has stated it: `register.intended_use`",
    ):
        assert told in card, told
    assert all(label in card for label in LABELS)


def test_what_people_state_of_its_use_is_in_the_card_and_stays_text(made: Made) -> None:
    config = parse(
        {
            "register": {
                "intended_use": "Sorting parts.\n\n- never <b>alone</b>",
                "limits": "# Not at night",
            }
        },
        "",
    )
    html, text = render(write_card(made.run, config, FACTS))
    assert "<li>never &lt;b&gt;alone&lt;/b&gt;</li>" in html
    assert "# Not at night" in text
    assert "Nobody has stated" not in text


def test_hostile_names_are_shown_as_text(hostile: Made) -> None:
    finding = Finding(
        code="x", severity="warning", subject=ODD, found=ODD, items=(ODD, HOSTILE)
    )
    run = dataclasses.replace(
        hostile.run,
        validate=hostile.run.validate.model_copy(update={"findings": (finding,)}),
    )
    entries = (
        entry("verdict", "3", decision="reject", reason=f"{ODD} {HOSTILE}", by=HOSTILE),
    )
    facts = dataclasses.replace(FACTS, model=ODD, entries=entries)
    for card in (
        write_card(run, Config(), facts),
        describe_version(run, Config(), facts),
    ):
        html, text = render(card)
        for tag in ("<script", "<b>", "<a ", "<em>"):
            assert tag not in html.replace("<br", ""), tag
        assert HOSTILE in text
        assert r"a|b\n`<b>` *x* _y_ [z](http://x) $k$ \u202e" in text
    card = write_card(run, Config(), facts)
    for line in card.splitlines():
        if line.startswith("|"):
            assert line.endswith("|"), "a row is one line"
    assert "x" * 119 + "…" in card
    assert "x" * 121 not in card


@pytest.mark.parametrize(
    "odd",
    [
        ODD,
        HOSTILE,
        "# head",
        "- item",
        "1. first",
        "a\\b",
        "&lt;",
        "~~gone~~",
        "=====",
        "| --- |",
    ],
)
def test_escaped_text_reads_as_it_was(odd: str) -> None:
    html, text = render(f"{escape(odd)}")
    assert html.startswith("<p>")
    assert html.count("<") == 2
    assert text == odd.replace("\n", r"\n").replace("\u202e", r"\u202e")


def test_prose_keeps_paragraphs_and_lists() -> None:
    html, _ = render(prose("one\n\ntwo\n- a\n- *b*\n"))
    assert html.count("<p>") == 2
    assert html.count("<li>") == 2
    assert "<em>" not in html


def test_no_secret_is_told(made: Made) -> None:
    redaction.learn("https://ines:sesame-7G4k@weights.example/")
    backbone = made.run.backbone.model_copy(
        update={"source": "https://ines:sesame-7G4k@weights.example/w.pth"}
    )
    run = dataclasses.replace(made.run, backbone=backbone)
    config = parse({"register": {"limits": "ask with sesame-7G4k"}}, "")
    assert "sesame" not in write_card(run, config, FACTS)
    assert "weights.example" in write_card(run, config, FACTS)
    assert "sesame" not in describe_version(run, config, FACTS)


def test_what_was_decided_comes_first_and_the_history_in_order(made: Made) -> None:
    assert "Nothing was decided about it yet." in write_card(made.run, Config(), FACTS)
    entries = (
        entry("verdict", "2", decision="promote"),
        entry("promoted", "2"),
        entry("verdict", "3", "2", decision="cannot-tell", reason="too few"),
        entry("promoted", "3", "2", decision="cannot-tell", reason="try it"),
        entry("promoted", "3", "1", reason="void, as version 1 is no champion"),
    )
    facts = dataclasses.replace(FACTS, entries=entries)
    card = write_card(made.run, Config(), facts)
    first = card.splitlines()[2]
    assert (
        first
        == "**Promoted to champion, overriding the verdict (2026-11-27): try it.**"
    )
    assert (
        "- 2026-11-27, ines@lab: Not promoted, as the test split cannot tell: too few."
        in card
    )
    assert "void" not in card
    assert describe_version(made.run, Config(), facts).startswith(first)
    older = dataclasses.replace(FACTS, version="2", entries=entries)
    assert (
        write_card(made.run, Config(), older)
        .splitlines()[2]
        .startswith("**Succeeded by version 3 (2026-11-27)")
    )
    withdrawn = dataclasses.replace(
        facts, entries=(*entries, entry("rolled-back", "2", "3", reason="worse"))
    )
    assert "**Withdrawn for version 2 (2026-11-27): worse.**" in write_card(
        made.run, Config(), withdrawn
    )


def test_a_later_decision_replaces_the_first_sentence_of_a_description_and_nothing_else(
    made: Made,
) -> None:
    before = describe_version(made.run, Config(), FACTS)
    after = restate(before, (entry("promoted", "3", reason="by hand"),), "3")
    assert after.startswith("**Promoted to champion (2026-11-27): by hand.**")
    assert after.split("\n\n")[1:] == before.split("\n\n")[1:]
    for own in ("my own words", "**Not for line B!**\n\nmy own words"):
        assert restate(own, (entry("promoted", "3"),), "3") == own


def test_a_longer_decision_drives_nothing_out_of_a_description(made: Made) -> None:
    config = parse({"register": {"intended_use": "x" * 3000}}, "")
    before = describe_version(made.run, config, FACTS)
    long = (entry("verdict", "3", decision="reject", reason="<" * 1500),)
    after = restate(before, long, "3")
    assert len(after) <= LONGEST_DESCRIPTION
    assert after.split("\n\n")[1:] == before.split("\n\n")[1:]


def test_a_later_decision_is_written_into_a_card_as_if_it_were_written_anew(
    made: Made,
) -> None:
    before = write_card(made.run, Config(), FACTS)
    entries = (
        entry("verdict", "3", decision="promote", reason="better"),
        entry("promoted", "3", reason="by hand"),
    )
    facts = dataclasses.replace(FACTS, entries=entries)
    once = restate_card(before, entries[:1], "3")
    assert restate_card(once, entries, "3") == write_card(made.run, Config(), facts)
    for own in ("my own words", before.replace("## Decisions", "## Mine")):
        assert restate_card(own, entries, "3") == own


def test_a_decision_about_another_version_is_left_out(made: Made) -> None:
    other = dataclasses.replace(FACTS, version="4")
    assert "Gain in accuracy" not in write_card(made.run, Config(), other)


def test_the_description_fits_into_the_registry(made: Made) -> None:
    config = parse({"register": {"intended_use": "<" * 8000}}, "")
    facts = dataclasses.replace(
        FACTS, entries=(entry("verdict", "3", decision="reject", reason="<" * 1500),)
    )
    text = describe_version(made.run, config, facts)
    assert len(text) <= LONGEST_DESCRIPTION
    assert text.startswith("**Not promoted (2026-11-27): &lt;")
    assert "`model_card.md`" in text, (
        "what is too long is left out, and not what comes after it"
    )


def test_a_bare_run_and_texts_have_a_card_too(tmp_path: Path) -> None:
    bare = make(
        tmp_path / "bare", labels=("ants", "bees"), baseline=False, skill=(50, 20)
    )
    run = dataclasses.replace(bare.run, register=None, promote=None)
    card = write_card(run, Config(), CardFacts("bees", "1"))
    assert "none: the workspace is in no Git repository" in card
    texts = make(tmp_path / "texts", labels=("negative", "positive"), texts=True)
    assert "at most 128 tokens" in write_card(texts.run, Config(), FACTS)


def test_many_classes_stay_readable(tmp_path: Path) -> None:
    many = make(tmp_path, labels=[f"class {n:04d}" for n in range(200)], parts=200)
    card = write_card(many.run, Config(), FACTS)
    assert len(card) < 20_000
    assert "and 180 more" in card
    assert "190 more do better" in card


def test_what_is_refused_is_told_also_where_the_limit_is_new() -> None:
    limits = {
        "min_characters": 2,
        "control_characters": False,
        "single_frame": False,
        "max_seconds": 30,
    }
    assert list(list_refusals(limits)) == [
        "a text of fewer than 2 characters",
        "a text with control characters",
        "beyond max seconds 30",
    ]
