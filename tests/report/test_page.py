"""The page says what the records say, loads nothing, and shows hostile names as text."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from example_run import HOSTILE, LABELS, TEXT_INPUT, Made, make
from pipeline.records import (
    BaselineAge,
    Comparison,
    DataVersion,
    Finding,
    MetricEstimate,
    RegisterRecord,
)
from pipeline.report.flip_section import Flip, FlipWay
from pipeline.report.page import write_page
from pipeline.report.plots import write_plots
from pipeline.report.report_context import ReportContext, gather_context
from pipeline.report.run_sections import describe_training_loss
from pipeline.workspace import Workspace

SECTIONS = (
    "result",
    "errors",
    "slices",
    "calibration",
    "data",
    "split",
    "training",
    "use",
    "provenance",
)
VOID = {"meta", "img", "br", "hr", "input", "link", "line", "circle", "polyline", "col"}


class Read(HTMLParser):
    """Reads a page strictly: every element is closed by its own end tag."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, (
            f"</{tag}> closes something else at {self.getpos()}"
        )

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).replace("\u202f", "").split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def read(made: Made) -> Read:
    return Read(made.html())


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return make(
        tmp_path_factory.mktemp("hostile"),
        labels=(*LABELS[:3], HOSTILE, "x" * 300),
        hostile=True,
    )


def test_every_section_is_there_and_every_link_inside_leads_somewhere(
    read: Read,
) -> None:
    ids = {attributes["id"] for _, attributes in read.elements if "id" in attributes}
    assert ids >= set(SECTIONS)
    inside = {a["href"][1:] for a in read.all("a") if (a["href"] or "").startswith("#")}
    assert inside == set(SECTIONS)


def test_the_first_champion_was_compared_with_a_constant_answer(
    made: Made, read: Read
) -> None:
    assert "Compared with version 2" in read.text
    promoted = made.run.promote
    assert promoted is not None
    first = promoted.model_copy(update={"compared_with": ""})
    page = Read(made.with_records(promote=first).html())
    assert "Compared with a constant answer" in page.text


def test_texts_are_not_said_to_be_augmented(read: Read) -> None:
    assert "measured on augmented examples" in read.text
    assert "augmented" not in describe_training_loss(TEXT_INPUT)


def test_the_page_loads_nothing(made: Made, read: Read) -> None:
    html = made.html()
    for tag, attributes in read.elements:
        assert tag not in {"script", "link", "iframe", "object", "embed"}
        for name in ("src", "srcset", "data", "poster", "background", "xlink:href"):
            assert (attributes.get(name) or "data:").startswith("data:"), (
                tag,
                attributes,
            )
    style = html[html.index("<style>") : html.index("</style>")]
    assert "@import" not in style
    assert "url(" not in style


def test_pictures_and_charts_have_words(read: Read) -> None:
    pictures = read.all("img")
    assert pictures
    assert all(picture["alt"] for picture in pictures)
    charts = read.all("svg")
    assert len(charts) == 4  # loss, accuracy, a sweep, reliability
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in charts)
    assert all(
        span["aria-label"] for span in read.all("span") if span.get("role") == "img"
    )


def test_tables_have_headers(read: Read) -> None:
    tables, captions = len(read.all("table")), len(read.all("caption"))
    assert captions == tables - 1  # the matrix is described by the line above it
    assert [
        t["aria-describedby"] for t in read.all("table") if "aria-describedby" in t
    ] == ["matrix"]
    assert all(head.get("scope") in ("col", "row") for head in read.all("th"))


def test_numbers_come_from_the_records(made: Made, read: Read) -> None:
    assert "Fine-tuning reached 90.5% accuracy" in read.text
    assert "on 63 test examples" in read.text
    changed = made.run.evaluate.model_copy(
        update={
            "examples": 4321,
            "metrics": {
                **made.run.evaluate.metrics,
                "accuracy": MetricEstimate(value=0.1234, low=0.1111, high=0.1357),
            },
        }
    )
    text = Read(made.with_records(evaluate=changed).html()).text
    assert "Fine-tuning reached 12.3% accuracy (11–14) on 4,321 test examples" in text
    assert "90.5%" not in text[: text.index("correct on test")]
    for told in (
        "336 examples",
        "3 that cannot be used",
        "24 examples came with the last growth",
        "1.5 million parameters",
        "180 optimiser steps",
    ):
        assert told in read.text
    for metric in made.run.evaluate.metrics.values():
        assert (
            f"{100 * metric.value:.1f}%" in read.text
            or f"{metric.value:.3f}" in read.text
        )


def test_every_candidate_class_and_step_is_named(made: Made, read: Read) -> None:
    for name in (
        *made.run.finetune.candidates,
        *LABELS,
        *made.context.seconds,
        "thaw predict",
        "models:/surfaces@champion",
    ):
        assert name in read.text


def test_hostile_names_are_shown_as_text(hostile: Made) -> None:
    html = hostile.html()
    assert HOSTILE not in html
    read = Read(html)
    assert not read.all("script")
    assert read.text.count(HOSTILE) > 5
    for _, attributes in read.elements:
        assert not any(name.startswith("on") for name in attributes)


def test_what_cannot_be_seen_is_made_visible(made: Made) -> None:
    odd = Finding(
        code="x",
        severity="warning",
        subject="a\nb",
        found="\u202egnp.exe",
        items=("bad\udcffbyte", "tab\there"),
    )
    html = made.with_records(
        validate=made.run.validate.model_copy(update={"findings": (odd,)})
    ).html()
    for shown in (r"a\nb", r"\u202egnp.exe", r"bad\udcffbyte", r"tab\there"):
        assert shown in html
    html.encode("utf-8")


def test_links_lead_only_where_a_reader_would_go(made: Made) -> None:
    links = {"safe": "https://example.org/?a=1&b=2", "odd": "javascript:alert(1)"}
    read = Read(
        dataclasses.replace(
            made, context=dataclasses.replace(made.context, links=links)
        ).html()
    )
    targets = [a["href"] for a in read.all("a")]
    assert links["safe"] in targets
    assert links["odd"] not in targets


def test_a_bare_run_has_a_page_too(tmp_path: Path) -> None:
    made = make(tmp_path, labels=("ants", "bees"), baseline=False, skill=(50, 20))
    read = Read(
        dataclasses.replace(
            made.with_records(register=None), context=ReportContext(workspace="bees")
        ).html()
    )
    assert "No errors on the test split" in read.text
    assert "Not registered yet" in read.text
    assert "scratch" not in read.text


def test_it_says_how_many_texts_are_cut_and_by_how_much(tmp_path: Path) -> None:
    html = make(tmp_path, labels=("negative", "positive"), texts=True).html()
    expected = (
        "of train and validation, 37 of 4,200 texts are longer than 128 tokens and are cut, "
        "by 9 tokens in the median and 310 at most"
    )
    assert expected in html


def test_texts_are_quoted_as_they_are_with_their_place_in_the_table(
    tmp_path: Path,
) -> None:
    made = make(tmp_path, labels=("negative", "positive"), skill=(0.8, 0.4), texts=True)
    html = made.html()
    read = Read(html)
    quotations = html.split("<blockquote>")[1:]
    assert len(quotations) == len(read.all("blockquote")) > 3
    assert not read.all("img")
    for quotation in quotations:
        content = quotation[: quotation.index("</blockquote>")]
        assert content.startswith(
            '<mark class="for" style="--weight:1.0">so</mark> it <mark class="against" style="--weight:0.5">goes</mark>'
        )
        assert content.endswith(
            r"<br>&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;\u202e"
        )
        assert "reviews.csv:" in quotation
    assert "at most 128 tokens" in read.text
    assert 'thaw predict "A TEXT" TABLE…' in read.text
    assert "words" in made_slices(html)


def made_slices(html: str) -> list[str]:
    """The columns that the page shows slices of."""
    start = html.index('<section id="slices">')
    return re.findall(r"<caption><b>(.*?)</b>", html[start:])


def test_what_changed_against_the_champion_is_shown_both_ways_as_text(
    made: Made,
) -> None:
    picture = "data:image/png;base64,AA=="
    right = Flip("a.png", HOSTILE, "ok (60 %)", f"{HOSTILE} (70 %)", (picture,), ())
    wrong = Flip("reviews.csv:2", "ok", "ok (60 %)", "pit (70 %)", (), ("one", HOSTILE))
    flips = (FlipWay("Newly right", 9, (right,)), FlipWay("Newly wrong", 1, (wrong,)))
    html = dataclasses.replace(
        made, context=dataclasses.replace(made.context, flips=flips)
    ).html()
    assert HOSTILE not in html
    text = Read(html).text
    assert "Newly right: 9 examples, the 1 largest" in text
    assert "Newly wrong: 1 example one" in text
    assert "champion: ok (60 %)challenger: pit (70 %)" in text
    assert "Newly right6 (5.0%)" in text


def test_many_classes_stay_readable(tmp_path: Path) -> None:
    made = make(tmp_path, labels=[f"class {n:04d}" for n in range(200)], parts=200)
    html = made.html()
    assert len(html) < 300_000
    assert 'class="matrix"' not in html
    assert "Most frequent" in html


def test_the_latency_of_another_model_is_not_shown(made: Made) -> None:
    assert made.context.latency is not None
    other = made.context.latency.model_copy(update={"model_sha256": "0" * 64})
    text = Read(
        dataclasses.replace(
            made, context=dataclasses.replace(made.context, latency=other)
        ).html()
    ).text
    assert "time per example" not in text


def test_without_a_registry_the_page_says_why(made: Made) -> None:
    off = made.run.register.model_copy(
        update={"version": "", "reason": "tracking is off"}
    )
    text = Read(made.with_records(register=off, promote=None).html()).text
    assert "Tracking is off." in text
    assert "registered as" not in text


@pytest.mark.parametrize(
    ("value", "verdict", "said"),
    [
        (0.124, "better", "12.4 points above training from scratch;"),
        (-0.05, "worse", "5.0 points below training from scratch;"),
        (
            0.013,
            "cannot-tell",
            "1.3 points above training from scratch, too little to tell the two apart;",
        ),
        (0.0, "cannot-tell", "level with training from scratch;"),
    ],
)
def test_the_verdict_says_no_more_than_the_comparison(
    made: Made, value: float, verdict: str, said: str
) -> None:
    found = Comparison(
        other="scratch",
        metric="accuracy",
        p_value=0.5,
        verdict=verdict,
        difference=MetricEstimate(value=value, low=value - 0.1, high=value + 0.1),
    )
    evaluated = made.run.evaluate.model_copy(update={"comparisons": (found,)})
    assert said in Read(made.with_records(evaluate=evaluated).html()).text


def test_a_remembered_comparison_says_its_age_and_what_was_left_out(made: Made) -> None:
    age = BaselineAge(trained="2026-01-31", data="0123456789abcdef.dir", examples=1234)
    comparisons = [
        one.model_copy(update={"examples": made.run.evaluate.examples - 5})
        if one.other == "scratch"
        else one
        for one in made.run.evaluate.comparisons
    ]
    evaluated = made.run.evaluate.model_copy(
        update={"baseline": age, "comparisons": tuple(comparisons)}
    )
    text = Read(made.with_records(evaluate=evaluated).html()).text
    assert (
        "It was trained on 2026-01-31 from data version 01234567, 1,234 examples then; 5 of today's"
        in text
    )
    assert "2026-01-31" not in Read(made.html()).text


def test_write_replaces_the_page_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "report.html"
    write_page("old é", target)
    with pytest.raises(UnicodeEncodeError):
        write_page("new \udcff", target)
    assert target.read_text(encoding="utf-8") == "old é"
    assert list(tmp_path.iterdir()) == [target]


def test_gather_takes_what_the_latest_run_left(made: Made, tmp_path: Path) -> None:
    runs = tmp_path / ".thaw" / "runs"
    assert made.context.latency is not None
    for name, megabytes in (
        ("20260101T000000Z-aa", 1.0),
        ("20260102T000000Z-aa", 2.0),
        ("20260103T000000Z-aa", None),
    ):
        (runs / name / "evaluate").mkdir(parents=True)
        latency = made.context.latency.model_copy(update={"megabytes": megabytes})
        text = latency.model_dump_json() if megabytes else "{broken"
        (runs / name / "evaluate" / "latency.json").write_text(text)
    drift = [{"code": "drift-x", "severity": "warning", "subject": "t", "found": "f"}]
    (runs / "20260101T000000Z-aa" / "validate").mkdir()
    (runs / "20260101T000000Z-aa" / "validate" / "drift.json").write_text(
        json.dumps(drift)
    )
    data = DataVersion(md5="0.dir", size=1, files=1, git_revision=None, dirty=False)
    outcomes = [{"step": "finetune", "how": "done", "why": [], "seconds": 3.0}]
    outcomes += [{"step": "evaluate", "how": "restored", "why": [], "seconds": 1.0}]
    (runs / "20260102T000000Z-aa" / "outcomes.json").write_text(json.dumps(outcomes))
    context = gather_context(Workspace(tmp_path), data)
    assert context.seconds == {"finetune": 3.0}
    assert context.latency.megabytes == 2.0
    assert [finding.code for finding in context.drift] == ["drift-x"]
    assert context.workspace == tmp_path.name
    assert "finetune" not in context.unchanged
    assert "validate" in context.unchanged
    assert "torch" in context.versions


def test_it_leads_to_the_data_docs_and_to_a_server_that_shows_the_version(
    tmp_path: Path,
) -> None:
    docs = tmp_path / ".thaw/runs/20260101T000000Z-aa/validate/data-docs/index.html"
    docs.parent.mkdir(parents=True)
    docs.touch()
    data = DataVersion(md5="0.dir", size=1, files=1, git_revision=None, dirty=False)
    served = RegisterRecord(
        evaluation="e",
        tracking_uri="http://mlflow.example:5000",
        model="small parts",
        version="3",
        run_id="r",
    )
    links = gather_context(Workspace(tmp_path), data, served).links
    assert (tmp_path / links["Data Docs of the last validation"]).samefile(docs)
    assert (
        links["small parts, version 3, in MLflow"]
        == "http://mlflow.example:5000/#/models/small%20parts/versions/3"
    )
    embedded = served.model_copy(update={"tracking_uri": "sqlite:///mlflow.db"})
    assert list(gather_context(Workspace(tmp_path), data, embedded).links) == [
        "Data Docs of the last validation"
    ]


def test_the_charts_stand_alone_as_pictures(
    made: Made, hostile: Made, tmp_path: Path
) -> None:
    for number, one in enumerate((made, hostile)):
        written = write_plots(
            one.run.finetune, one.run.evaluate, tmp_path / str(number)
        )
        assert {path.stem for path in written} >= {"curve-1", "calibration"}
        for path in written:
            root = ElementTree.fromstring(path.read_text(encoding="utf-8"))
            assert root.tag == "{http://www.w3.org/2000/svg}svg"
            assert not list(root.iter("{http://www.w3.org/2000/svg}script"))
    assert (tmp_path / "0" / "confusion.svg").exists()


def test_the_style_uses_only_colours_it_defines(made: Made) -> None:
    html = made.html()
    used, defined = (
        set(re.findall(r"var\((--[\w-]+)", html)),
        set(re.findall(r"(--[\w-]+):", html)),
    )
    assert used <= defined


def test_a_worst_error_that_is_text_is_quoted_and_escaped(tmp_path: Path) -> None:
    made = make(tmp_path)
    path = made.run.evaluate.folder / "worst" / "worst.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    for row in rows:
        row["picture"] = None
        row["text"] = "not <b>bad</b> & not good"
    path.write_text(json.dumps(rows), encoding="utf-8")
    html = made.html()
    assert "<blockquote>not &lt;b&gt;bad&lt;/b&gt; &amp; not good</blockquote>" in html
    Read(html)
