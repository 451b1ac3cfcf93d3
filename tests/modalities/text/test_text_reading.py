"""Texts in tables and folders: nothing is lost, nothing is guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import DataConfig
from pipeline.errors import DataError
from pipeline.examples import ExampleListing
from pipeline.modalities.text.content import from_content
from pipeline.modalities.text.reading import list_texts
from pipeline.modalities.text.settings import TextIntakeConfig


def write(root: Path, name: str, content: str | bytes) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def listed(
    root: Path, *, intake: TextIntakeConfig | None = None, **settings: Any
) -> ExampleListing:
    return list_texts(root, DataConfig(**settings), intake or TextIntakeConfig())


def texts(listing: ExampleListing) -> dict[str, tuple[str, str]]:
    """Text and label by path."""
    return {
        example.path: (from_content(example.content or "").text, example.target)
        for example in listing.examples
    }


def test_each_row_of_a_csv_is_an_example_named_by_its_line(tmp_path: Path) -> None:
    write(
        tmp_path,
        "reviews.csv",
        'text,label,shop\n"two\nlines, and a comma",good,Oslo\nplain,bad,Rome\n',
    )
    listing = listed(tmp_path)
    assert texts(listing) == {
        "reviews.csv:2": ("two\nlines, and a comma", "good"),
        "reviews.csv:4": ("plain", "bad"),
    }
    assert listing.examples[1].meta == (("shop", "Rome"),)


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", b"\xef\xbb\xbftext,label\nsch\xc3\xb6n,good\n")
    assert texts(listed(tmp_path)) == {"a.csv:2": ("schön", "good")}


@pytest.mark.parametrize(
    "content",
    [
        b"text,label\nfine,good\nsch\xf6n,good\n",
        "text,label\nfine,good\n".encode("utf-16"),
        "text,label\nfine,good\n".encode("utf-16-le"),
    ],
)
def test_another_encoding_is_named_by_file_and_line_and_never_guessed(
    tmp_path: Path, content: bytes
) -> None:
    write(tmp_path, "a.csv", content)
    with pytest.raises(DataError, match=r"table a\.csv[\s\S]*not UTF-8[\s\S]*line \d"):
        listed(tmp_path)


def test_cells_may_be_longer_than_the_csv_module_likes(tmp_path: Path) -> None:
    long = "word " * 100_000
    write(tmp_path, "a.csv", f"text,label\n{long},good\n")
    assert texts(listed(tmp_path))["a.csv:2"][0] == long


def test_a_table_without_a_header_loses_no_row(tmp_path: Path) -> None:
    write(tmp_path, "a.tsv", "first words\t1\nother words\t0\n")
    with pytest.raises(DataError, match="header"):
        listed(tmp_path)
    listing = listed(tmp_path, header=False, columns={"text": 1, "label": 2})
    assert texts(listing) == {
        "a.tsv:1": ("first words", "1"),
        "a.tsv:2": ("other words", "0"),
    }


def test_quotes_of_a_table_that_quotes_nothing_are_characters(tmp_path: Path) -> None:
    """Read as CSV, the first text would reach to the quote in the second."""
    rows = ["text\tlabel", '"An opening quote\tgood', 'he said "yes"\tbad', '"\tbad']
    write(tmp_path, "a.tsv", "\n".join([*rows, '"Well" he said\tgood']) + "\n")
    assert texts(listed(tmp_path)) == {
        "a.tsv:2": ('"An opening quote', "good"),
        "a.tsv:3": ('he said "yes"', "bad"),
        "a.tsv:4": ('"', "bad"),
        "a.tsv:5": ('"Well" he said', "good"),
    }


def test_quoted_tabs_and_line_breaks_stay_in_their_cell(tmp_path: Path) -> None:
    write(tmp_path, "a.tsv", 'text\tlabel\n"two\nlines\tand a tab"\tgood\n"q"\tbad\n')
    assert texts(listed(tmp_path)) == {
        "a.tsv:2": ("two\nlines\tand a tab", "good"),
        "a.tsv:4": ("q", "bad"),
    }


def test_json_lines_keep_the_number_of_the_line(tmp_path: Path) -> None:
    write(
        tmp_path,
        "a.jsonl",
        '{"text": "so", "label": "x"}\n\n{"label": 3, "text": "sö", "tags": ["a"]}\n',
    )
    listing = listed(tmp_path)
    assert texts(listing) == {"a.jsonl:1": ("so", "x"), "a.jsonl:3": ("sö", "3")}
    assert [dict(example.meta)["tags"] for example in listing.examples] == [
        None,
        '["a"]',
    ]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": "a", "label"', "line 2"),
        ('["a", "b"]', "a JSON list"),
        ('{"text": "a", "text": "b", "label": "x"}', "a key more than once"),
        ('{"text": "\\ud800", "label": "x"}', "half a character"),
    ],
)
def test_a_broken_line_of_json_is_named(tmp_path: Path, line: str, said: str) -> None:
    write(tmp_path, "a.jsonl", f'{{"text": "so", "label": "x"}}\n{line}\n')
    with pytest.raises(DataError, match=said):
        listed(tmp_path)


def test_parquet_is_read_too(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"text": ["a b", "c d"], "label": [0, 1]}), tmp_path / "a.parquet"
    )
    assert texts(listed(tmp_path)) == {
        "a.parquet:1": ("a b", "0"),
        "a.parquet:2": ("c d", "1"),
    }


def test_bytes_that_are_no_text_are_refused_in_parquet(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"text": [b"fine", b"\xff\xfe"], "label": ["x", "y"]}),
        tmp_path / "a.parquet",
    )
    with pytest.raises(DataError, match="not UTF-8 in row 2"):
        listed(tmp_path)


def test_tables_named_for_splits_are_read_together(tmp_path: Path) -> None:
    for name in ("train.csv", "dev.csv", "test-00000-of-00001.csv"):
        write(tmp_path, name, f"text,label\nfrom {name},x\n")
    given = {example.path: example.given_split for example in listed(tmp_path).examples}
    assert given == {
        "train.csv:2": "train",
        "dev.csv:2": "val",
        "test-00000-of-00001.csv:2": "test",
    }


def test_a_column_of_splits_is_read(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "text,label,split\none,x,train\ntwo,x,dev\nthree,x,\n")
    assert [example.given_split for example in listed(tmp_path).examples] == [
        "train",
        "val",
        None,
    ]


def test_tables_with_other_names_are_asked_about(tmp_path: Path) -> None:
    write(tmp_path, "train.csv", "text,label\na,x\n")
    write(tmp_path, "old.csv", "text,label\nb,x\n")
    with pytest.raises(DataError, match=r"old\.csv, train\.csv"):
        listed(tmp_path)
    assert list(texts(listed(tmp_path, table="train.csv"))) == ["train.csv:2"]


def test_text_files_in_class_folders_are_examples(tmp_path: Path) -> None:
    write(tmp_path, "train/pos/a.txt", "good\nfilm")
    write(tmp_path, "train/neg/b.txt", b"\xef\xbb\xbfbad film")
    write(tmp_path, "test/neg/c.txt", b"caf\xe9")
    write(tmp_path, "test/pos/d.txt", "fine")
    write(tmp_path, "test/pos/d.pdf", "fine")
    listing = listed(tmp_path)
    assert texts(listing) == {
        "train/pos/a.txt": ("good\nfilm", "pos"),
        "train/neg/b.txt": ("bad film", "neg"),
        "test/pos/d.txt": ("fine", "pos"),
    }
    assert {(fault.path, fault.code) for fault in listing.faults} == {
        ("test/neg/c.txt", "undecodable"),
        ("test/pos/d.pdf", "not-text"),
    }
    assert {example.given_split for example in listing.examples} == {"train", "test"}


def test_text_files_beside_a_table_are_asked_about(tmp_path: Path) -> None:
    write(tmp_path, "pos/a.txt", "good")
    write(tmp_path, "all.csv", "text,label\na,x\n")
    with pytest.raises(DataError, match=r"all\.csv"):
        listed(tmp_path)


def test_rows_without_text_or_label_are_named_faults(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", "text,label\n,x\nwords,\nfine,x\n")
    listing = listed(tmp_path)
    assert [(fault.path, fault.code) for fault in listing.faults] == [
        ("a.csv:2", "empty"),
        ("a.csv:3", "no-label"),
    ]
    assert list(texts(listing)) == ["a.csv:4"]


def test_a_pair_of_texts_is_read_where_the_settings_say_so(tmp_path: Path) -> None:
    write(
        tmp_path,
        "a.csv",
        "premise,hypothesis,label\nIt rains.,It is wet.,yes\nIt rains.,,no\n",
    )
    columns = {"text": "premise", "pair": "hypothesis"}
    listing = listed(tmp_path, intake=TextIntakeConfig(pair=True), columns=columns)
    content = listing.examples[0].content
    assert content is not None
    assert json.loads(content) == {"text": "It rains.", "pair": "It is wet."}
    assert [fault.path for fault in listing.faults] == ["a.csv:3"]


def test_every_text_with_html_is_named(tmp_path: Path) -> None:
    rows = "".join(f"<b>words</b> {number},x\n" for number in range(60))
    write(tmp_path, "a.csv", f"text,label\n{rows}")
    found = {finding.code: finding for finding in listed(tmp_path).findings}
    assert len(found["markup"].items) == 60


def test_texts_full_of_html_are_told_of(tmp_path: Path) -> None:
    rows = "".join(f"fine words {number},x\n" for number in range(20))
    write(tmp_path, "a.csv", f"text,label\n{rows}so<br />it goes,x\n3 < 4 & 5 > 2,x\n")
    found = {finding.code: finding for finding in listed(tmp_path).findings}
    assert found["markup"].items == ("a.csv:22",)
    calm = listed(tmp_path, intake=TextIntakeConfig(max_markup=0.5))
    assert "markup" not in {finding.code for finding in calm.findings}
