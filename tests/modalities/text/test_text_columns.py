"""Which columns are taken for what, and what is asked instead of guessed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config import ColumnRole
from pipeline.errors import DataError
from pipeline.modalities.text.columns import TextLayout, describe_columns

WORDS = (
    "a very good film indeed",
    "not at all what I hoped for",
    "see it twice or more",
    "the music was too loud",
)


def described(
    folder: Path,
    header: str,
    rows: list[str],
    name: str = "a.csv",
    given: Mapping[ColumnRole, str] | None = None,
) -> TextLayout:
    lines = [header, *rows] if header else rows
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return describe_columns(folder, given)


def rows(
    *, separator: str = ",", labels: tuple[str, ...] = ("good", "bad"), extra: str = ""
) -> list[str]:
    made = []
    for number in range(40):
        text = f"{WORDS[number % 4]} {number}"
        made.append(
            separator.join(
                [text, labels[number % len(labels)], *([extra] if extra else [])]
            )
        )
    return made


def test_common_names_are_known(tmp_path: Path) -> None:
    layout = described(tmp_path, "Review,Sentiment,shop", rows(extra="Oslo"))
    assert layout.columns == {"text": "Review", "label": "Sentiment"}
    assert (layout.table, layout.header, layout.pair) == ("a.csv", True, False)
    assert any("shop" in note for note in layout.notes)


def test_a_table_without_a_header_goes_by_positions(tmp_path: Path) -> None:
    layout = described(
        tmp_path, "", rows(separator="\t", labels=("1", "0")), "train.tsv"
    )
    assert layout.header is False
    assert layout.columns == {"text": "1", "label": "2"}


def test_a_label_that_comes_again_is_no_name(tmp_path: Path) -> None:
    layout = described(
        tmp_path, "", rows(separator="\t", labels=("ham", "spam")), "sms.tsv"
    )
    assert layout.header is False


def test_a_first_line_that_may_be_either_is_asked_about(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="may hold the column names, or be an example"):
        described(tmp_path, "frase,sentimiento", rows())


def test_two_columns_of_text_are_both_named(tmp_path: Path) -> None:
    table = [
        f"{WORDS[number % 4]} {number},{WORDS[number % 3]} so {number},good"
        for number in range(30)
    ]
    with pytest.raises(DataError, match="title, body"):
        described(tmp_path, "title,body,label", table)


def test_two_columns_of_labels_are_both_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="topic, rating"):
        described(tmp_path, "text,topic,rating", rows(extra="5"))


def test_what_the_user_says_of_columns_is_not_guessed(tmp_path: Path) -> None:
    table = [
        f"{WORDS[number % 4]} {number},{WORDS[number % 3]} so {number},{number % 2},{number % 3}"
        for number in range(30)
    ]
    header = "Titel,Text der Antwort,Urteil,Filiale"
    with pytest.raises(DataError, match="--column text=Titel"):
        described(tmp_path, header, table)
    layout = described(
        tmp_path,
        header,
        table,
        given={"text": "Text der Antwort", "label": "Urteil", "group": "Filiale"},
    )
    assert layout.columns == {
        "text": "Text der Antwort",
        "label": "Urteil",
        "group": "Filiale",
    }
    assert layout.header is True
    assert layout.notes[-1] == "metadata: Titel"
    pair = {"text": "Titel", "pair": "Text der Antwort", "label": "Urteil"}
    assert described(tmp_path, header, table, given=pair).pair is True
    with pytest.raises(DataError, match="correct --column"):
        described(tmp_path, header, table, given={"label": "Urtel"})
    layout = described(
        tmp_path, "", table, given={"text": "2", "pair": "1", "label": "3"}
    )
    assert layout.header is False


def test_names_or_positions_decide_about_a_first_line_that_may_be_either(
    tmp_path: Path,
) -> None:
    table = ["frase,sentimiento", *rows()]
    with pytest.raises(DataError, match="--column text=1"):
        described(tmp_path, "", table)
    names = {"text": "frase", "label": "sentimiento"}
    assert described(tmp_path, "", table, given=names).header is True
    positions = {"text": "1", "label": "2"}
    assert described(tmp_path, "", table, given=positions).header is False


def test_positions_do_not_make_an_example_of_column_names(tmp_path: Path) -> None:
    positions = {"text": "1", "label": "2"}
    with pytest.raises(DataError, match="--column text=phrase --column label=rating"):
        described(tmp_path, "phrase,rating", rows(), given=positions)


def test_what_to_do_with_a_folder_of_other_files_is_said(tmp_path: Path) -> None:
    (tmp_path / "all.json").write_text("[]")
    with pytest.raises(DataError, match=r"call it \.jsonl"):
        describe_columns(tmp_path)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"text": {"body": WORDS[0]}, "label": "good"}, "an object as the text"),
        ({"text": WORDS[0], "label": ["good"]}, "a list as the label"),
    ],
)
def test_objects_and_lists_are_no_texts_and_no_labels(
    tmp_path: Path, record: dict[str, Any], said: str
) -> None:
    rows = [{**record, "number": number} for number in range(20)]
    lines = [json.dumps(row) for row in rows]
    with pytest.raises(DataError, match=said):
        described(tmp_path, "", lines, "a.jsonl")
    (tmp_path / "a.jsonl").unlink()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=said):
        describe_columns(tmp_path)


def test_pairs_are_known_by_their_names(tmp_path: Path) -> None:
    table = [
        f"{WORDS[number % 4]} {number},{WORDS[number % 3]} so {number},yes"
        for number in range(30)
    ]
    layout = described(tmp_path, "premise,hypothesis,label", table)
    assert layout.pair
    assert layout.columns == {"text": "premise", "pair": "hypothesis"}


def test_tables_by_split_are_described_together(tmp_path: Path) -> None:
    described(tmp_path, "sentence,label", rows(), "train.csv")
    layout = described(tmp_path, "sentence,label", rows(), "dev.csv")
    assert layout.table is None
    assert "dev.csv (val), train.csv (train)" in layout.notes[0]


def test_one_file_may_be_named(tmp_path: Path) -> None:
    described(tmp_path, "text,label", rows(), "a.jsonl.csv")
    (tmp_path / "b.jsonl").write_text(
        '{"text": "so it goes", "label": "x"}\n' * 3, encoding="utf-8"
    )
    assert describe_columns(tmp_path / "b.jsonl").table == "b.jsonl"


def test_folders_of_text_files_are_known(tmp_path: Path) -> None:
    (tmp_path / "pos").mkdir()
    (tmp_path / "pos" / "a.txt").write_text("good")
    layout = describe_columns(tmp_path)
    assert (layout.table, layout.header) == (None, None)
    assert "pos" in layout.notes[0]


def test_only_the_beginning_of_a_large_table_is_read(tmp_path: Path) -> None:
    """What comes after the sample would be refused, were it read."""
    many = [*rows() * 30, "one cell"]
    layout = described(tmp_path, "Review,Sentiment", many)
    assert layout.columns == {"text": "Review", "label": "Sentiment"}


def test_only_the_beginning_of_large_json_lines_is_read(tmp_path: Path) -> None:
    records = [
        f'{{"text": "{WORDS[number % 4]} {number}", "label": "{number % 2}"}}'
        for number in range(1200)
    ]
    layout = described(tmp_path, "", [*records, "no JSON"], "a.jsonl")
    assert layout.table == "a.jsonl"


def test_a_large_parquet_file_is_judged_by_its_beginning(tmp_path: Path) -> None:
    texts = [f"{WORDS[number % 4]} {number}" for number in range(1000)]
    labels = ["good", "bad"] * 500
    later = [f"label {number}" for number in range(1000)]
    table = pa.table({"Review": [*texts, *texts], "kind": [*labels, *later]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=100)
    assert describe_columns(tmp_path).columns == {"text": "Review", "label": "kind"}


def test_names_of_texts_and_labels_that_were_swapped_are_refused(
    tmp_path: Path,
) -> None:
    with pytest.raises(DataError, match="texts in the column label, and labels in"):
        described(tmp_path, "label,text", rows())


def test_a_table_of_a_header_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows"):
        described(tmp_path, "text,label", [])


def test_tables_in_a_folder_below_are_named(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    described(tmp_path / "below", "text,label", rows(), "train.csv")
    with pytest.raises(DataError, match=r"below/train\.csv"):
        describe_columns(tmp_path)


def test_a_missing_label_is_told_beside_all_columns_there_are(tmp_path: Path) -> None:
    table = [f"{WORDS[number % 4]} {number},{number}" for number in range(30)]
    with pytest.raises(DataError, match="the columns text, id"):
        described(tmp_path, "text,id", table)


@pytest.mark.parametrize("header", ["sentence_1,sentence_2,label", "Text 1,Text 2,y"])
def test_names_of_pairs_may_be_written_apart(tmp_path: Path, header: str) -> None:
    table = [
        f"{WORDS[number % 4]} {number},{WORDS[number % 3]} so {number},yes"
        for number in range(30)
    ]
    layout = described(tmp_path, header, table)
    first, second, _ = header.split(",")
    assert layout.pair
    assert (layout.columns["text"], layout.columns["pair"]) == (first, second)


def test_a_column_without_a_name_is_shown_as_one(tmp_path: Path) -> None:
    table = [f"{number},{row}" for number, row in enumerate(rows())]
    layout = described(tmp_path, ",text,label", table)
    assert layout.notes[-1] == "metadata: (no name)"


def test_a_label_is_shown_by_its_beginning_on_one_line(tmp_path: Path) -> None:
    layout = described(tmp_path, "text,label", rows(labels=("x" * 500, '"a\nb"')))
    note = next(note for note in layout.notes if note.startswith("label"))
    assert len(note) < 100
    assert "\n" not in note


@pytest.mark.parametrize(
    ("name", "hint"),
    [("a.json", "one object a line"), ("a.csv.gz", "unpack"), ("a.xlsx", "as CSV")],
)
def test_what_to_do_with_a_file_that_is_no_table_is_said(
    tmp_path: Path, name: str, hint: str
) -> None:
    (tmp_path / name).write_text("[]")
    with pytest.raises(DataError) as caught:
        describe_columns(tmp_path / name)
    assert hint in caught.value.hint
