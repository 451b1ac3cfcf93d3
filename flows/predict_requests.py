"""What `thaw predict` asks a registered model about: files, texts as they are typed, or
the rows of tables.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.config import ColumnRole, DataConfig
from pipeline.errors import ConfigError, DataError
from pipeline.tasks.base import ServedColumn

# By the model's input column.
TEXT_ROLES: dict[str, ColumnRole] = {"text": "text", "pair": "pair"}
TEXT_FILE = ".txt"
STANDARD_INPUT = "-"


@dataclass(frozen=True)
class PredictionRequest:
    """One question to a model, or why it cannot be asked.

    Args:
        source: the file, with the line where it is a row of a table; empty for a text
            as it was typed.
        values: by input column; none where it cannot be asked.
    """

    source: str
    values: Mapping[str, bytes | str] = field(default_factory=dict)
    error: str = ""

    @property
    def texts(self) -> dict[str, str]:
        """The texts among the values, by input column."""
        return {
            column: value
            for column, value in self.values.items()
            if isinstance(value, str)
        }


def list_requests(
    inputs: Sequence[str],
    columns: Sequence[ServedColumn],
    data: DataConfig,
    *,
    only_texts: bool = False,
) -> Iterator[PredictionRequest]:
    """The questions that the words of a command line stand for, in order. Files are
    read as they come.

    A model of files takes files and folders. A model of texts takes texts, tables and
    .txt files, and folders of these; `-` is standard input, a text a line. What cannot
    be read becomes a request with an error, and spoils no other.

    Args:
        columns: what the model is asked by.
        data: how the workspace's tables are laid out: what holds for the data holds for
            tables to predict.
        only_texts: take every word for a text, even where a file is called so.

    Raises:
        ConfigError: a word names no file but looks like one, a pair of texts lacks its
            second, or a model of files is given texts.
    """
    if columns[0].type == "binary":
        if only_texts:
            raise ConfigError(
                "--text", found="a model of files", expected="a model of texts"
            )
        for word in inputs:
            for path in _expand_folder(word):
                yield (
                    path
                    if isinstance(path, PredictionRequest)
                    else _read_file(path, columns[0].name)
                )
        return
    texts = _TextRequests([column.name for column in columns], data)
    words = iter(inputs)
    for word in words:
        if not only_texts and word == STANDARD_INPUT:
            yield from texts.of_lines(sys.stdin.buffer)
        elif not only_texts and _is_file_name(word):
            for path in _expand_folder(word):
                yield from (
                    [path]
                    if isinstance(path, PredictionRequest)
                    else texts.of_file(path)
                )
        else:
            others = [
                _next_text(words, column, only_texts=only_texts)
                for column in texts.columns[1:]
            ]
            yield PredictionRequest(
                "", dict(zip(texts.columns, [word, *others], strict=True))
            )


def _next_text(words: Iterator[str], column: str, *, only_texts: bool) -> str:
    text = next(words, None)
    expected = "pairs of texts, one after the other, each quoted"
    if text is None:
        raise ConfigError(
            "texts", found=f"a text without its {column}", expected=expected
        )
    if not only_texts and _is_file_name(text):
        raise ConfigError(
            "texts",
            found=f"a text without its {column}: {text} is a file",
            expected=expected,
        )
    return text


def _is_file_name(word: str) -> bool:
    """Whether a word is the name of a file or folder that is there.

    Raises:
        ConfigError: it is called as a file would be, and there is none.
    """
    if not word.strip():
        return False
    if _exists(Path(word)):
        return True
    _refuse_missing_file(word)
    return False


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a text that no file could be called by
        return False


def _refuse_missing_file(word: str) -> None:
    """A word that is called as a file would be is hardly a text."""
    from pipeline.data.tables import TABLES

    is_one_word = len(word.split()) == 1
    if is_one_word and Path(word).suffix.lower() in (*TABLES, TEXT_FILE):
        raise ConfigError(
            "files",
            found=f"no file {word}",
            expected="a text, or a table or .txt file that is there",
        )


def _expand_folder(word: str) -> Iterator[Path | PredictionRequest]:
    """The file of that name, or the files in the folder of that name; an error where
    there are none.
    """
    path = Path(word)
    if not word:
        yield PredictionRequest(word, error="an empty name")
    elif not path.is_dir():
        yield path
    else:
        files = sorted(_visible_files(path))
        if not files:
            yield PredictionRequest(word, error="a folder with no files in it")
        yield from files


def _visible_files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        names = path.relative_to(folder).parts
        is_hidden = any(name.startswith(".") for name in names)
        if path.is_file() and not is_hidden:
            yield path


def _read_file(path: Path, column: str) -> PredictionRequest:
    try:
        return PredictionRequest(str(path), {column: path.read_bytes()})
    except OSError as fault:
        return PredictionRequest(
            str(path), error=(fault.strerror or str(fault)).lower()
        )


def _describe(fault: DataError, path: Path) -> str:
    """Why a table cannot be read: where, what was found, and the first of its lines."""
    where = fault.subject.removeprefix(f"table {path}").removeprefix(", ")
    what = fault.found
    if where:
        what = f"{where}: {what}"
    first_detail = fault.details[:1]
    return "; ".join([what, f"expected {fault.expected}", *first_detail])


class _TextRequests:
    """Questions to a model of texts, from files.

    Args:
        columns: the model's input columns: text, and pair where it judges pairs.
        data: how tables are laid out.
    """

    def __init__(self, columns: Sequence[str], data: DataConfig) -> None:
        self.columns = columns
        self.data = data

    def of_file(self, path: Path) -> Iterator[PredictionRequest]:
        """The rows of a table, or the one text of a .txt file."""
        from pipeline.data.tables import is_table

        if is_table(path.name):
            yield from self._of_table(path)
        elif path.suffix.lower() == TEXT_FILE and len(self.columns) == 1:
            yield self._of_text_file(path)
        else:
            yield PredictionRequest(
                str(path), error="neither a table nor a .txt file of one text"
            )

    def of_lines(self, stream: Iterable[bytes]) -> Iterator[PredictionRequest]:
        """A text a line of standard input; blank lines are passed over."""
        if len(self.columns) > 1:
            raise ConfigError(
                STANDARD_INPUT,
                found="a model of pairs of texts",
                expected="a model of one text",
                hint="put the pairs into a table",
            )
        for number, line in enumerate(stream, start=1):
            source = f"{STANDARD_INPUT}:{number}"
            try:
                text = line.decode().strip()
            except UnicodeDecodeError as fault:
                error = f"a byte that is not UTF-8 at offset {fault.start}"
                yield PredictionRequest(source, error=error)
                continue
            if text:
                yield PredictionRequest(source, {self.columns[0]: text})

    def _of_text_file(self, path: Path) -> PredictionRequest:
        try:
            return PredictionRequest(
                str(path), {self.columns[0]: path.read_text(encoding="utf-8-sig")}
            )
        except OSError as fault:
            return PredictionRequest(
                str(path), error=(fault.strerror or str(fault)).lower()
            )
        except UnicodeDecodeError as fault:
            return PredictionRequest(
                str(path), error=f"a byte that is not UTF-8 at offset {fault.start}"
            )

    def _of_table(self, path: Path) -> Iterator[PredictionRequest]:
        from pipeline.data.tables import read_table

        roles = [TEXT_ROLES[column] for column in self.columns]
        try:
            rows = read_table(path, f"table {path}", path.parent, self.data, roles)
            cells = [
                rows.columns[self._table_column(column, rows.columns, path)]
                for column in self.columns
            ]
        except DataError as fault:
            yield PredictionRequest(str(path), error=_describe(fault, path))
            return
        for line, values in zip(rows.lines, zip(*cells, strict=True), strict=True):
            source = f"{path}:{line}"
            if None in values:
                yield PredictionRequest(source, error="a cell is empty")
            else:
                texts = [str(value) for value in values]
                yield PredictionRequest(
                    source, dict(zip(self.columns, texts, strict=True))
                )

    def _table_column(
        self, column: str, present: Mapping[str, object], path: Path
    ) -> str:
        """The column of a table that holds what the model calls `column`: as in the
        data, or called so itself.
        """
        usual = self.data.columns[TEXT_ROLES[column]]
        for name in (usual, column):
            if name in present:
                return name
        raise DataError(
            f"table {path}",
            found="the columns " + ", ".join(present),
            expected=f"a column '{usual}', as in data.columns",
            hint=f"call the column that holds the {column} so",
        )
