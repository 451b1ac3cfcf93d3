"""What the words of `thaw predict` stand for: files, texts, rows of tables."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from flows.predict_requests import list_requests
from pipeline.config import DataConfig
from pipeline.errors import ConfigError
from pipeline.tasks.base import ServedColumn

TEXT = [ServedColumn("text", "string")]
PAIR = [*TEXT, ServedColumn("pair", "string")]
LONG = "very " * 2000 + "good"  # longer than any file's name may be


def test_a_model_of_texts_is_asked_about_texts_tables_and_text_files(
    tmp_path: Path,
) -> None:
    table = tmp_path / "new reviews.csv"
    table.write_text('text,stars\n"good, not great",4\n,1\nbad,2\n', encoding="utf-8")
    folder = tmp_path / "letters"
    folder.mkdir()
    (folder / "one.txt").write_text("\ufeffIt broke.\n", encoding="utf-8")
    (folder / "photo.jpg").write_bytes(b"\xff\xd8")
    words = ["It never broke.", str(table), LONG, str(folder)]
    asked = list(list_requests(words, TEXT, DataConfig()))
    assert [request.texts.get("text") for request in asked] == [
        "It never broke.",
        "good, not great",
        None,
        "bad",
        LONG,
        "It broke.\n",
        None,
    ]
    assert [request.source for request in asked][:4] == [
        "",
        f"{table}:2",
        f"{table}:3",
        f"{table}:4",
    ]
    assert [request.error for request in asked if request.error] == [
        "a cell is empty",
        "neither a table nor a .txt file of one text",
    ]


def test_columns_are_those_of_the_data_or_of_the_model(tmp_path: Path) -> None:
    table = tmp_path / "a.tsv"
    data = DataConfig(columns={"text": "sentence"})
    table.write_text("id\tsentence\n1\tas in the data\n")
    assert [
        request.texts["text"] for request in list_requests([str(table)], TEXT, data)
    ] == ["as in the data"]
    table.write_text("id\ttext\n1\tas the model says\n")
    assert [
        request.texts["text"] for request in list_requests([str(table)], TEXT, data)
    ] == ["as the model says"]
    table.write_text("id\tbody\n1\tneither\n")
    unusable, text = list_requests([str(table), "so it goes"], TEXT, data)
    assert (
        unusable.error
        == "the columns id, body; expected a column 'sentence', as in data.columns"
    )
    assert text.texts == {"text": "so it goes"}, (
        "one that cannot be read spoils no other"
    )


def test_a_table_without_a_header_is_read_as_the_data_are(tmp_path: Path) -> None:
    table = tmp_path / "a.csv"
    table.write_text("good,1\nbad,0\n")
    data = DataConfig(header=False, columns={"text": "1", "label": "2"})
    assert [
        request.texts["text"] for request in list_requests([str(table)], TEXT, data)
    ] == ["good", "bad"]


def test_pairs_are_two_words_each(tmp_path: Path) -> None:
    asked = list(
        list_requests(["A man eats.", "Someone has a meal."], PAIR, DataConfig())
    )
    assert [request.texts for request in asked] == [
        {"text": "A man eats.", "pair": "Someone has a meal."}
    ]
    with pytest.raises(ConfigError, match="without its pair"):
        list(list_requests(["A man eats."], PAIR, DataConfig()))
    table = tmp_path / "pairs.csv"
    table.write_text("text,pair\na,b\n")
    with pytest.raises(ConfigError, match=r"pairs\.csv is a file"):
        list(list_requests(["A man eats.", str(table)], PAIR, DataConfig()))


def test_a_mistyped_file_is_not_taken_for_a_text() -> None:
    with pytest.raises(ConfigError, match=r"no file reviws\.csv"):
        list(list_requests(["reviws.csv"], TEXT, DataConfig()))


def test_a_model_of_files_takes_every_word_for_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"content")
    columns = [ServedColumn("image", "binary")]
    asked = list(list_requests([str(tmp_path), "not there.png"], columns, DataConfig()))
    assert [request.values for request in asked] == [{"image": b"content"}, {}]
    assert asked[1].error == "no such file or directory"


def test_an_empty_word_is_an_empty_text_and_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("unrelated")
    assert [request.values for request in list_requests([""], TEXT, DataConfig())] == [
        {"text": ""}
    ]
    (request,) = list_requests([""], [ServedColumn("image", "binary")], DataConfig())
    assert request.error == "an empty name"


def test_a_text_called_as_a_folder_is_one_where_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "great").mkdir()
    (empty,) = list_requests(["great"], TEXT, DataConfig())
    assert empty.error == "a folder with no files in it"
    (text,) = list_requests(["great"], TEXT, DataConfig(), only_texts=True)
    assert text.texts == {"text": "great"}


def test_a_dash_takes_each_line_of_standard_input_for_a_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    typed = io.TextIOWrapper(io.BytesIO(b"so it goes\r\n\nsch\xf6n\nlast"))
    monkeypatch.setattr("sys.stdin", typed)
    asked = list(list_requests(["first", "-"], TEXT, DataConfig()))
    assert [(request.source, request.texts.get("text")) for request in asked] == [
        ("", "first"),
        ("-:1", "so it goes"),
        ("-:3", None),
        ("-:4", "last"),
    ]
    assert asked[2].error == "a byte that is not UTF-8 at offset 3"
    with pytest.raises(ConfigError, match="put the pairs into a table"):
        list(list_requests(["-"], PAIR, DataConfig()))


def test_a_table_that_cannot_be_read_is_told_with_the_line(tmp_path: Path) -> None:
    open_quote, ragged = tmp_path / "a.csv", tmp_path / "b.csv"
    open_quote.write_text('text,label\nfine,good\n"never closed,bad\n')
    ragged.write_text("text,label\nfine,good\none cell\n")
    words = [str(open_quote), str(ragged)]
    errors = [request.error for request in list_requests(words, TEXT, DataConfig())]
    assert errors[0].startswith("line 3: unexpected end of data")
    assert errors[1].endswith("line 3: 1 cells")
