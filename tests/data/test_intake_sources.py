"""How a data folder or a table becomes a listing."""

from __future__ import annotations

import datetime
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from image_builders import dataset, save
from pipeline.config import DataConfig
from pipeline.data.files import outside
from pipeline.data.sources import read
from pipeline.errors import DataError
from pipeline.examples import ExampleListing
from pipeline.manifest import real_path, stored_path
from pipeline.text import printable


def listing(root: Path, **settings: object) -> ExampleListing:
    return read(root, DataConfig.model_validate(settings))


def table(root: Path, text: str, name: str = "list.csv") -> dict[str, str]:
    save(root / name, text.encode())
    return {"table": name}


def places(result: ExampleListing) -> list[tuple[str, str, str | None]]:
    return sorted(
        (example.path, example.target, example.given_split)
        for example in result.examples
    )


def codes(result: ExampleListing) -> list[str]:
    return [finding.code for finding in result.findings]


def touch(root: Path, *paths: str) -> Path:
    for path in paths:
        save(root / path, b"x")
    return root


# --- folders --------------------------------------------------------------------------


def test_class_folders(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.png", "cat/deeper/b.png", "dog/c.png")
    assert places(listing(tmp_path)) == [
        ("cat/a.png", "cat", None),
        ("cat/deeper/b.png", "cat", None),
        ("dog/c.png", "dog", None),
    ]


@pytest.mark.parametrize(
    ("folder", "split"),
    [
        ("train", "train"),
        ("Training", "train"),
        ("valid", "val"),
        ("validation", "val"),
        ("testing", "test"),
    ],
)
def test_splits_above_classes(tmp_path: Path, folder: str, split: str) -> None:
    touch(tmp_path, f"{folder}/cat/a.png", f"{folder}/dog/b.png")
    assert places(listing(tmp_path)) == [
        (f"{folder}/cat/a.png", "cat", split),
        (f"{folder}/dog/b.png", "dog", split),
    ]


def test_classes_that_are_called_like_splits(tmp_path: Path) -> None:
    touch(tmp_path, "test/a.png", "train/b.png", "plane/c.png")
    assert [target for _, target, _ in places(listing(tmp_path))] == [
        "plane",
        "test",
        "train",
    ]


def test_splits_beside_classes_stop(tmp_path: Path) -> None:
    touch(tmp_path, "train/cat/a.png", "train/dog/b.png", "cat/c.png")
    with pytest.raises(DataError, match=r"train.*beside others \(cat\)"):
        listing(tmp_path)


def test_files_without_a_class_are_faults_and_documents_are_not(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "train/cat/a.png",
        "test/b.png",
        "c.png",
        "README.md",
        "LICENSE",
        "train/README.md",
    )
    result = listing(tmp_path)
    assert [(fault.path, fault.code) for fault in result.faults] == [
        ("c.png", "no-label"),
        ("test/b.png", "no-label"),
    ]


def test_litter_and_hidden_files_are_passed_over(tmp_path: Path) -> None:
    touch(
        tmp_path,
        "cat/a.png",
        "cat/.DS_Store",
        "cat/Thumbs.db",
        "dog/desktop.ini",
        "dog/.gitkeep",
        "dog/b.png",
    )
    touch(tmp_path, ".git/x.png", "__MACOSX/y.png", "cat/.hidden/z.png")
    result = listing(tmp_path)
    assert [path for path, *_ in places(result)] == ["cat/a.png", "dog/b.png"]
    assert (result.faults, result.findings) == ((), ())


def test_anything_else_in_a_class_folder_is_an_example(tmp_path: Path) -> None:
    touch(tmp_path, "cat/notes.txt", "dog/b.png")
    assert len(listing(tmp_path).examples) == 2


def test_empty_class_is_critical_until_dropped(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.png", "dog/b.png")
    (tmp_path / "eel").mkdir()
    (finding,) = listing(tmp_path).findings
    assert (finding.code, finding.severity, finding.items) == (
        "empty-class",
        "critical",
        ("eel",),
    )
    assert listing(tmp_path, drop_classes=["eel"]).findings == ()


def test_dropped_class_is_left_out(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.png", "dog/b.png", "eel/c.png")
    assert {
        target for _, target, _ in places(listing(tmp_path, drop_classes=["eel"]))
    } == {"cat", "dog"}


def test_misspelt_names_are_told(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.png", "dog/b.png")
    (finding,) = listing(tmp_path, drop_classes=["dgo"]).findings
    assert finding.code == "no-such-class"
    assert "did you mean dog" in finding.hint
    (finding,) = listing(tmp_path, labels=["cat"]).findings
    assert (finding.code, finding.items) == ("unknown-label", ("dog",))


@pytest.mark.parametrize(
    "slip",
    ["Black Bear", "black bear ", "blackbear", "black\u00a0bear", "black b\u200bear"],
)
def test_classes_that_differ_by_case_blanks_or_form_are_a_warning_by_name(
    tmp_path: Path, slip: str
) -> None:
    touch(
        tmp_path,
        "black bear/a.png",
        "black bear/b.png",
        f"{slip}/c.png",
        "brown bear/d.png",
    )
    (finding,) = listing(tmp_path).findings
    assert (finding.code, finding.severity) == ("similar-classes", "warning")
    assert finding.items in (
        (f"'black bear' (2) and '{slip}' (1)",),
        (f"'{slip}' (1) and 'black bear' (2)",),
    )


def test_whole_numbers_with_and_without_a_point_are_a_warning(tmp_path: Path) -> None:
    touch(tmp_path, "1/a.png", "1.0/b.png", "2/c.png", "2.5/d.png")
    (finding,) = listing(tmp_path).findings
    assert finding.items == ("'1' (1) and '1.0' (1)",)


def test_a_class_that_the_list_of_labels_lacks_stops_with_the_one_it_may_mean(
    tmp_path: Path,
) -> None:
    touch(
        tmp_path, "ants/a.png", "bees/b.png", "Bees/c.png", "anst/d.png", "wasps/e.png"
    )
    (finding,) = listing(tmp_path, labels=["ants", "bees"]).findings
    assert (finding.code, finding.severity) == ("unknown-label", "critical")
    assert finding.items == (
        "Bees: did you mean bees?",
        "anst: did you mean ants?",
        "wasps",
    )
    assert (
        listing(tmp_path, labels=["ants", "anst", "bees", "Bees", "wasps"]).findings
        == ()
    )


def test_metadata_adds_groups_and_columns(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.png", "cat/b.png", "dog/c.png")
    table(
        tmp_path,
        "path,group,line,weight,split\ncat/a.png,p1,007,1.5,test\n./dog//c.png,p2,008,,\n",
        "metadata.csv",
    )
    examples = {example.path: example for example in listing(tmp_path).examples}
    assert examples["cat/a.png"].group == "p1"
    assert examples["cat/a.png"].given_split == "test"
    assert dict(examples["cat/a.png"].meta) == {"line": "007", "weight": "1.5"}
    assert dict(examples["dog/c.png"].meta) == {"line": "008", "weight": None}
    assert examples["cat/b.png"].meta == ()


def test_metadata_of_no_file_is_a_warning(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.png", "dog/c.png", "eel/e.png")
    table(
        tmp_path,
        "path,group\ncat/z.png,p1\ncat/a.png,p1\ndog/c.png,p3\neel/e.png,p2\n",
        "metadata.csv",
    )
    (finding,) = listing(tmp_path, drop_classes=["eel"]).findings
    assert (finding.code, finding.severity, finding.items) == (
        "metadata-unused",
        "warning",
        ("cat/z.png",),
    )


def test_metadata_that_contradict_the_folder_are_critical(tmp_path: Path) -> None:
    touch(tmp_path, "0/a.png", "0/b.png", "1/c.png")
    table(tmp_path, "path,label\n0/a.png,0\n0/b.png,1\n1/c.png,\n", "metadata.csv")
    result = listing(tmp_path)
    (finding,) = result.findings
    assert (finding.code, finding.severity, finding.items) == (
        "metadata-label",
        "critical",
        ("0/b.png: 1",),
    )
    assert all(example.meta == () for example in result.examples)


def test_links(tmp_path: Path) -> None:
    root = touch(tmp_path / "data", "cat/a.png", "dog/b.png")
    touch(tmp_path, "elsewhere/c.png")
    (root / "dog" / "same.png").symlink_to("b.png")
    (root / "dog" / "out.png").symlink_to("../../elsewhere/c.png")
    (root / "dog" / "loop").symlink_to("..")
    (root / "dog" / "self.png").symlink_to("self.png")
    (root / "cat" / "away").symlink_to("../../elsewhere")
    result = listing(root)
    assert [path for path, *_ in places(result)] == [
        "cat/a.png",
        "dog/b.png",
        "dog/same.png",
    ]
    assert [(fault.path, fault.code) for fault in result.faults] == [
        ("cat/away", "outside"),
        ("dog/loop", "folder-link"),
        ("dog/out.png", "outside"),
        ("dog/self.png", "link-loop"),
    ]


def test_odd_names_come_back(tmp_path: Path) -> None:
    names = [
        "two words.png",
        "new\nline.png",
        "-rf.png",
        "back\\slash.png",
        "\\x41.png",
        os.fsdecode(b"caf\xe9.png"),
    ]
    touch(tmp_path, *(f"cat/{name}" for name in names), "dog/b.png")
    stored = [example.path for example in listing(tmp_path).examples]
    assert len(pa.array(stored, pa.string())) == 7
    assert sorted(os.fsencode(real_path(tmp_path, path)) for path in stored) == sorted(
        os.fsencode(path) for path in tmp_path.rglob("*.png")
    )
    assert all(printable(path).isprintable() for path in stored)


@pytest.mark.parametrize(
    "name",
    [
        "plain",
        "ü",
        "a\\b",
        "\\",
        "\\x41",
        "\\xe9",
        "\udce9",
        "\\\udce9\\\\\udcff",
        "\n\t",
        "\u202e",
    ],
)
def test_stored_paths_are_reversible(name: str) -> None:
    stored = stored_path(f"cat/{name}")
    stored.encode("utf-8")
    assert str(real_path(Path("/data"), stored)) == f"/data/cat/{name}"


def test_twins_stop_and_both_are_named(tmp_path: Path) -> None:
    both = [unicodedata.normalize(form, "cat/café.png") for form in ("NFC", "NFD")]
    touch(tmp_path, *both, "dog/b.png")
    if len(list((tmp_path / "cat").iterdir())) < 2:
        pytest.skip("this file system takes the two for one")
    (finding,) = listing(tmp_path).findings
    assert (finding.code, finding.severity) == ("name-twins", "critical")
    assert all(path in finding.items[0] for path in both)


def test_twins_among_classes_stop(tmp_path: Path) -> None:
    one, other = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    result = listing(
        tmp_path, **table(tmp_path, f"path,label\na.png,{one}\nb.png,{other}\n")
    )
    assert codes(result) == ["name-twins"]


def test_nothing_there_stops(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        listing(tmp_path / "absent")
    with pytest.raises(DataError, match="no examples"):
        listing(tmp_path)


# --- tables ---------------------------------------------------------------------------


def test_table_with_everything(tmp_path: Path) -> None:
    settings = table(
        tmp_path,
        'file,class,patient,fold,age\na.png,cat,p1,train,3\n"b,c.png",dog,p2,Valid,4\n',
    )
    columns = {"path": "file", "label": "class", "group": "patient", "split": "fold"}
    with pytest.raises(DataError, match="a column 'label'"):
        listing(tmp_path, **settings, columns={"path": "file"})
    examples = listing(tmp_path, **settings, columns=columns).examples
    assert [
        (e.path, e.target, e.group, e.given_split, dict(e.meta)) for e in examples
    ] == [
        ("a.png", "cat", "p1", "train", {"age": "3"}),
        ("b,c.png", "dog", "p2", "val", {"age": "4"}),
    ]


def test_parquet_table(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"path": ["a.png", "b.png"], "label": [0, 1], "ok": [True, None]}),
        tmp_path / "t.parquet",
    )
    examples = listing(tmp_path, table="t.parquet").examples
    assert [(e.path, e.target, dict(e.meta)) for e in examples] == [
        ("a.png", "0", {"ok": True}),
        ("b.png", "1", {"ok": None}),
    ]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators_and_a_byte_order_mark(tmp_path: Path, separator: str) -> None:
    settings = table(tmp_path, "\ufeffpath,label\na.png,cat\n".replace(",", separator))
    assert places(listing(tmp_path, **settings)) == [("a.png", "cat", None)]


def test_tabs_are_expected_where_the_name_says_so(tmp_path: Path) -> None:
    given = table(
        tmp_path, "path\tlabel\tnote, if any\na,b.png\tcat\tx;y\n", "train.tsv"
    )
    (example,) = listing(tmp_path, **given).examples
    assert (example.path, example.target, dict(example.meta)) == (
        "a,b.png",
        "cat",
        {"note, if any": "x;y"},
    )
    with pytest.raises(DataError, match="no tab in the first line, but a comma"):
        listing(tmp_path, **table(tmp_path, "path,label\na.png,cat\n", "train.tsv"))


@pytest.mark.parametrize(
    "text",
    [
        "path;label;width, mm\na.png;cat;1,5\n",
        "width, mm;path;label\n1,5;a.png;cat\n",
        'path;label;note\na.png;cat;"one; two, three"\n',
    ],
)
def test_semicolons_are_recognised_beside_commas(tmp_path: Path, text: str) -> None:
    assert places(listing(tmp_path, **table(tmp_path, text))) == [
        ("a.png", "cat", None)
    ]


def test_separators_that_cannot_be_told_apart_stop(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="comma and semicolon"):
        listing(tmp_path, **table(tmp_path, "file,a;class\na.png,b;cat\n"))


@pytest.mark.parametrize("name", ["list.csv", "list.tsv"])
def test_a_table_without_a_header_never_loses_its_first_row(
    tmp_path: Path, name: str
) -> None:
    touch(tmp_path, "1.png", "2.png")
    text = "1.png,cat,cat\n2.png,dog,dog\n".replace(
        ",", "\t" if name.endswith(".tsv") else ","
    )
    given = table(tmp_path, text, name)
    with pytest.raises(
        DataError, match=r"the file '1\.png' in the first line"
    ) as refused:
        listing(tmp_path, **given)
    assert "set data.header to false" in refused.value.hint
    with pytest.raises(DataError, match=r"the file '1\.png' in the first line"):
        listing(tmp_path, **given, columns={"path": "1.png", "label": "cat"})
    found = listing(tmp_path, **given, header=False, columns={"path": 1, "label": 2})
    assert places(found) == [("1.png", "cat", None), ("2.png", "dog", None)]
    with pytest.raises(DataError, match="expected: a column 'path'"):
        listing(tmp_path, **given, header=False)


@pytest.mark.parametrize("first", ["absent.png,cat", "absent,cat"])
def test_cells_of_an_example_are_no_column_names_though_its_file_is_missing(
    tmp_path: Path, first: str
) -> None:
    path, label = first.split(",")
    given = table(tmp_path, f"{first}\n2.png,cat\n3.png,dog\n")
    with pytest.raises(DataError, match="is one of the values below it"):
        listing(tmp_path, **given, columns={"path": path, "label": label})
    forced = listing(
        tmp_path, **given, columns={"path": path, "label": label}, header=True
    )
    assert len(forced.examples) == 2


def test_cells_may_be_longer_than_the_csv_module_allows(tmp_path: Path) -> None:
    long = "x" * 200_000
    (example,) = listing(
        tmp_path, **table(tmp_path, f"path,label,note\na.png,cat,{long}\n")
    ).examples
    assert dict(example.meta) == {"note": long}


def test_a_column_of_digits_stays_text(tmp_path: Path) -> None:
    lines = [
        f"{at}.png,cat,{text}"
        for at, text in enumerate(("1.10", "1.1", "9007199254740993", "007", "1E2"))
    ]
    found = listing(tmp_path, **table(tmp_path, "\n".join(["path,label,note", *lines])))
    assert [example.meta[0][1] for example in found.examples] == [
        "1.10",
        "1.1",
        "9007199254740993",
        "007",
        "1E2",
    ]


def test_columns_of_parquet_are_plain_or_become_text(tmp_path: Path) -> None:
    columns = {
        "path": ["a.png", "b.png"],
        "label": ["cat", "dog"],
        "day": [datetime.date(2024, 2, 29), None],
        "structure": [{"b": [1, 2], "a": "é"}, None],
        "content": [b"\x89PNG", b""],
        "bytes": [b"abc", None],
        "number": [float("nan"), float("inf")],
        "large": pa.array([2**64 - 1, 0], pa.uint64()),
        "kind": pa.array(["x", "y"]).dictionary_encode(),
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    first, second = (
        dict(example.meta) for example in listing(tmp_path, table="t.parquet").examples
    )
    assert first == {
        "day": "2024-02-29",
        "structure": '{"a": "é", "b": [1, 2]}',
        "content": "4 bytes",
        "bytes": "abc",
        "number": None,
        "large": 2**64 - 1,
        "kind": "x",
    }
    assert second["number"] == float("inf")


@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.large_binary(), pa.binary(3), pa.binary_view()], ids=str
)
def test_text_that_parquet_holds_as_bytes_is_text(
    tmp_path: Path, kind: pa.DataType
) -> None:
    columns = {
        "path": pa.array([b"1.p", b"2.p"], kind),
        "label": pa.array([b"ant", b"bee"], kind),
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    assert places(listing(tmp_path, table="t.parquet")) == [
        ("1.p", "ant", None),
        ("2.p", "bee", None),
    ]


UNREAD_COLUMNS = {
    "named by a setting": ("patient", {"group": "patients"}),
    "a split named by a setting": ("subset", {"split": "sub_set"}),
    "in capitals": ("Group", {}),
    "with a blank": ("split ", {}),
}


@pytest.mark.parametrize(
    ("column", "columns"), UNREAD_COLUMNS.values(), ids=UNREAD_COLUMNS.keys()
)
def test_groups_and_splits_that_would_not_be_read_stop(
    tmp_path: Path, column: str, columns: dict[str, str]
) -> None:
    """Dealt apart, for ever, they would leak the test split into training."""
    pq.write_table(
        pa.table({"path": ["a"], "label": ["cat"], column: ["test"]}),
        tmp_path / "t.parquet",
    )
    with pytest.raises(DataError, match=f"did you mean {column}"):
        listing(tmp_path, table="t.parquet", columns=columns)


BAD_TABLES = {
    "ragged": (
        "path,label\na,b\nc\nd,e,f\n",
        r"2 ragged lines[\s\S]*line 3: 1 cells[\s\S]*line 4: 3 cells",
    ),
    "ragged after a long cell": ('path,label\n"a\nb",c\nd\n', "line 4: 1 cells"),
    "column twice": (
        "path,label,label\na,b,c\n",
        r"line 1[\s\S]*'label' more than once",
    ),
    "no such column": ("path,lable\na,b\n", "did you mean lable"),
    "empty": ("", "an empty file"),
    "header only": ("path,label\n", "no rows"),
    "no path": ("path,label\n,b\n", r"rows without a path[\s\S]*line 2"),
    "unknown split": (
        "path,label,split\na,b,holdout\n",
        r"another split[\s\S]*line 2: holdout",
    ),
    "open quote": ('path,label\n"a,b\n', "line 2"),
}


@pytest.mark.parametrize(
    ("text", "message"), BAD_TABLES.values(), ids=BAD_TABLES.keys()
)
def test_unusable_table_is_named_with_its_line(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        listing(tmp_path, **table(tmp_path, text))


def test_table_that_is_not_utf8_says_where(tmp_path: Path) -> None:
    save(tmp_path / "list.csv", b"path,label\na.png,caf\xe9\n")
    with pytest.raises(DataError, match="offset 20, line 2"):
        listing(tmp_path, table="list.csv")


def test_broken_parquet_is_named(tmp_path: Path) -> None:
    save(tmp_path / "t.parquet", b"PAR1 no")
    with pytest.raises(DataError, match=r"t\.parquet"):
        listing(tmp_path, table="t.parquet")


@pytest.mark.parametrize("name", ["absent.csv", "../list.csv", "/etc/hostname"])
def test_table_must_be_in_the_folder(tmp_path: Path, name: str) -> None:
    save(tmp_path / "list.csv", b"path,label\na.png,cat\n")
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match="table"):
        listing(tmp_path / "data", table=name)


def test_row_without_a_label_is_a_fault(tmp_path: Path) -> None:
    result = listing(tmp_path, **table(tmp_path, "path,label\na.png,cat\nb.png,\n"))
    assert [(fault.path, fault.code) for fault in result.faults] == [
        ("b.png", "no-label")
    ]
    assert len(result.examples) == 1


def test_many_classes_take_linear_time(tmp_path: Path) -> None:
    rows = "".join(f"{at}.png,class{at}\n" for at in range(10_000))
    assert (
        len(listing(tmp_path, **table(tmp_path, "path,label\n" + rows)).examples)
        == 10_000
    )


def test_order_of_the_folder_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset(tmp_path, each=3)
    before = listing(tmp_path)
    scandir = os.scandir

    class Backwards:
        def __init__(self, path: Path) -> None:
            self._entries = scandir(path)

        def __enter__(self) -> Backwards:
            return self

        def __exit__(self, *_: object) -> None:
            self._entries.close()

        def __iter__(self) -> Iterator[os.DirEntry[str]]:
            return iter(
                sorted(self._entries, key=lambda entry: entry.name, reverse=True)
            )

    monkeypatch.setattr(os, "scandir", Backwards)
    assert listing(tmp_path) == before


def test_names_that_look_like_numbers_stay_what_they_are(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png", "c.png")
    given = table(
        tmp_path,
        "path,label,group,shift\na.png,1.10,1E2,1\nb.png,1.1,100.0,2\nc.png,2.0,100,3\n",
    )
    found = listing(tmp_path, **given)
    assert [example.target for example in found.examples] == ["1.10", "1.1", "2.0"]
    assert [example.group for example in found.examples] == ["1E2", "100.0", "100"]
    assert [dict(example.meta)["shift"] for example in found.examples] == [
        "1",
        "2",
        "3",
    ]


def test_a_stray_file_does_not_make_classes_of_the_splits(tmp_path: Path) -> None:
    for split in ("train", "test"):
        touch(
            tmp_path, f"{split}/cat/a.png", f"{split}/dog/b.png", f"{split}/preview.png"
        )
    found = listing(tmp_path)
    assert {(example.target, example.given_split) for example in found.examples} == {
        (label, split) for label in ("cat", "dog") for split in ("train", "test")
    }
    assert {(fault.path, fault.code) for fault in found.faults} == {
        ("train/preview.png", "no-label"),
        ("test/preview.png", "no-label"),
    }


@pytest.mark.parametrize("settings", [{}, {"table": "metadata.csv"}])
def test_a_table_that_is_a_link_out_of_the_data_folder_is_refused_by_name(
    tmp_path: Path, settings: dict[str, str]
) -> None:
    root = tmp_path / "data"
    touch(root, "cat/a.png", "dog/b.png")
    (tmp_path / "private.csv").write_text("path,label,salary\ncat/a.png,cat,1000\n")
    (root / "metadata.csv").symlink_to("../private.csv")
    with pytest.raises(DataError, match=r"metadata\.csv") as caught:
        listing(root, **settings)
    assert caught.value.found == "a link that leads out of the data folder"
    assert "copy" in caught.value.hint


def test_a_table_that_is_a_link_within_the_data_folder_is_read(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.png", "dog/b.png")
    (tmp_path / "groups.csv").write_text("path,group\ncat/a.png,p1\ndog/b.png,p2\n")
    (tmp_path / "metadata.csv").symlink_to("groups.csv")
    assert [example.group for example in listing(tmp_path).examples] == ["p1", "p2"]


@pytest.mark.parametrize("name", ["Metadata.csv", "cat/metadata.csv", "METADATA.CSV"])
def test_metadata_that_would_not_be_read_stops_the_run(
    tmp_path: Path, name: str
) -> None:
    touch(tmp_path, "cat/a.png", "dog/c.png")
    table(tmp_path, "path,group\ncat/a.png,p1\n", name)
    (finding,) = (
        finding
        for finding in listing(tmp_path).findings
        if finding.code == "metadata-unread"
    )
    assert finding.severity == "critical"
    assert name in finding.found


def test_examples_without_a_group_beside_others_with_one_are_told(
    tmp_path: Path,
) -> None:
    touch(tmp_path, "cat/a.png", "cat/b.png", "dog/c.png")
    table(tmp_path, "path,group\ncat/a.png,p1\ndog/c.png,p2\n", "metadata.csv")
    (finding,) = listing(tmp_path).findings
    assert (finding.code, finding.severity, finding.items) == (
        "metadata-missing",
        "warning",
        ("cat/b.png",),
    )


def test_a_link_to_itself_at_the_top_is_one_fault(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.png", "dog/c.png")
    (tmp_path / "self").symlink_to("self")
    found = listing(tmp_path)
    assert len(found.examples) == 2
    assert [(fault.path, fault.code) for fault in found.faults] == [
        ("self", "link-loop")
    ]


def test_a_file_taken_for_a_folder_is_no_loop(tmp_path: Path) -> None:
    touch(tmp_path, "cat/a.png")
    assert outside(tmp_path, "cat/a.png/x") is None
    assert outside(tmp_path, "n" * 300) is None
