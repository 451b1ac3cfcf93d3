"""`thaw predict`: predicts labels for files with a registered model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import ConfigError, ServingError
from pipeline.text import printable
from pipeline.workspace import Workspace

TOP = 3
_CHUNK = 32


@dataclass(frozen=True)
class Row:
    """The answer about one file, or why there is none."""

    file: Path
    label: str = ""
    score: float = 0.0
    top: tuple[tuple[str, float], ...] = ()  # the likeliest labels with their probabilities, likeliest first
    error: str = ""


class Answer(list[Row]):
    """One row a file, in order; `model` says which version answered, `note` what the reader should know of it."""

    model: str = ""
    note: str = ""


def predict(files: Sequence[Path], model: str | None, workspace: Workspace) -> Answer:
    """Asks a registered model; folders stand for the files below them, hidden ones left out.

    Args:
        model: `models:/NAME@ALIAS` or `models:/NAME/VERSION`; None: the workspace's champion, or else its challenger.

    Raises:
        ConfigError: no files are named, or there is no such model.
        ServingError: nothing is registered, or the model cannot be loaded.
        TrackingError: the registry is away.
    """
    from pipeline.tracking import packaging, registry
    from pipeline.tracking import store as stores

    wanted = list(_expanded(files))
    if not wanted:
        raise ConfigError("files", found="no files there", expected="files or folders of files")
    config = workspace.config()
    store = stores.find(config.tracking, workspace)
    if model is None:
        version, note = _default(registry.registered(config, workspace), workspace.model_name(config))
    else:
        version, note = registry.find(store, model), ""
    folder = registry.fetch(store, version)
    try:
        loaded = packaging.load(folder)
    except Exception as fault:
        raise ServingError(
            f"{version.name} v{version.version}", found=f"{type(fault).__name__}: {fault}",
            expected="a model that can be loaded", hint="thaw run --force register, or name another with --model",
        ) from fault  # fmt: skip
    answer = Answer()
    answer.model, answer.note = f"models:/{version.name}/{version.version}", note
    for start in range(0, len(wanted), _CHUNK):
        answer += _ask(loaded, wanted[start : start + _CHUNK])
    return answer


def _expanded(files: Sequence[Path]) -> Iterator[Path]:
    for file in files:
        if file.is_dir():
            below = (found for found in file.rglob("*") if found.is_file())
            yield from sorted(
                found for found in below if not any(part.startswith(".") for part in found.relative_to(file).parts)
            )
        else:
            yield file


def _default(versions: Sequence[Any], name: str) -> tuple[Any, str]:
    for alias in ("champion", "challenger"):
        for version in versions:
            if alias in version.aliases:
                note = "" if alias == "champion" else f"{name} has no champion yet: its challenger answers"
                return version, note
    there = [str(version) for version in versions]
    raise ServingError(
        f"model {name}", found="none has the alias champion or challenger" if there else "nothing is registered",
        expected="a registered model", hint="name one with --model" if there else "thaw run", details=there,
    )  # fmt: skip


def _ask(model: Any, files: Sequence[Path]) -> list[Row]:
    """Answers about some files; a file that cannot be used has a row that says why, and spoils no other's."""
    contents: dict[int, bytes] = {}
    errors: dict[int, str] = {}
    for position, file in enumerate(files):
        try:
            contents[position] = file.read_bytes()
        except OSError as fault:
            errors[position] = (fault.strerror or str(fault)).lower()
    rows = dict(zip(contents, _answers(model, list(contents.values())), strict=True))
    return [_row(file, rows.get(position) or errors[position]) for position, file in enumerate(files)]


def _answers(model: Any, contents: list[bytes]) -> list[dict[str, float] | str]:
    """For each file's content the probability of each label, or what is wrong with it."""
    from pipeline.tracking import packaging

    if not contents:
        return []
    try:
        return list(packaging.ask(model, "image", contents)["probabilities"])
    except Exception as fault:
        if len(contents) > 1:
            return [one for content in contents for one in _answers(model, [content])]
        return [re.sub(r"^row 0: ", "", str(fault))]


def _row(file: Path, found: dict[str, float] | str) -> Row:
    if isinstance(found, str):
        return Row(file, error=found)
    top = tuple(sorted(found.items(), key=lambda item: -item[1])[:TOP])
    return Row(file, label=top[0][0], score=top[0][1], top=top)


def as_lines(answer: Answer) -> Iterator[str]:
    """One JSON object a file."""
    for row in answer:
        values: dict[str, Any] = {"file": str(row.file), "model": answer.model}
        if row.error:
            values["error"] = row.error
        else:
            values |= {"label": row.label, "score": row.score, "top": [{"label": k, "score": v} for k, v in row.top]}
        yield json.dumps(values)


def as_table(answer: Answer) -> Iterator[str]:
    """A table for the eye: file, label, score, the runners-up."""
    yield answer.model + (f"  ({answer.note})" if answer.note else "")
    names = [printable(str(row.file)) for row in answer]
    wide = max(len(name) for name in names)
    label = max((len(row.label) for row in answer), default=0)
    for name, row in zip(names, answer, strict=True):
        if row.error:
            yield f"{name:<{wide}}  cannot be used: {row.error}"
            continue
        others = "  ".join(f"{other} {score:.1%}" for other, score in row.top[1:])
        yield f"{name:<{wide}}  {row.label:<{label}}  {row.score:6.1%}  {others}".rstrip()
