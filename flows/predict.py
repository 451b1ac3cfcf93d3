"""`thaw predict`: predicts labels for files with a registered model."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.errors import ConfigError, ServingError
from pipeline.text import printable
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from pipeline.tracking.registry import ModelVersion

LABELS_SHOWN = 3
FILES_AT_ONCE = 32
INPUT_COLUMN = "image"


@dataclass(frozen=True)
class FilePrediction:
    """What the model says of one file, or why it cannot.

    Args:
        score: probability of the label.
        top: the likeliest labels with their probabilities, likeliest first.
    """

    file: Path
    label: str = ""
    score: float = 0.0
    top: tuple[tuple[str, float], ...] = ()
    error: str = ""


class FilePredictions(list[FilePrediction]):
    """One prediction a file, in order; `model` says which version predicted, `note` what the reader should know of it."""

    model: str = ""
    note: str = ""


def predict(files: Sequence[Path], model: str | None, workspace: Workspace) -> FilePredictions:
    """Predicts with a registered model; folders stand for the files below them, hidden ones left out.

    Args:
        model: `models:/NAME@ALIAS` or `models:/NAME/VERSION`; None: the workspace's champion, or else its challenger.

    Raises:
        ConfigError: no files are named, or there is no such model.
        ServingError: nothing is registered, or the model cannot be loaded.
        TrackingError: the registry is away.
    """
    from pipeline.tracking import registry
    from pipeline.tracking import store as stores

    wanted = list(_expand_folders(files))
    if not wanted:
        raise ConfigError("files", found="no files there", expected="files or folders of files")
    config = workspace.config()
    store = stores.find(config.tracking, workspace)
    note = ""
    if model is None:
        versions = registry.registered(config, workspace)
        version, note = _choose_version(versions, workspace.model_name(config))
    else:
        version = registry.find(store, model)
    loaded = _load_model(registry.fetch(store, version), version)
    predictions = FilePredictions()
    predictions.model = f"models:/{version.name}/{version.version}"
    predictions.note = note
    for start in range(0, len(wanted), FILES_AT_ONCE):
        predictions += _predict_some(loaded, wanted[start : start + FILES_AT_ONCE])
    return predictions


def _expand_folders(files: Sequence[Path]) -> Iterator[Path]:
    for file in files:
        if file.is_dir():
            yield from sorted(_visible_files(file))
        else:
            yield file


def _visible_files(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        names = path.relative_to(folder).parts
        is_hidden = any(name.startswith(".") for name in names)
        if path.is_file() and not is_hidden:
            yield path


def _load_model(folder: Path, version: ModelVersion) -> Any:
    from pipeline.tracking import packaging

    try:
        return packaging.load(folder)
    except Exception as fault:
        raise ServingError(
            f"{version.name} v{version.version}",
            found=f"{type(fault).__name__}: {fault}",
            expected="a model that can be loaded",
            hint="thaw run --force register, or name another with --model",
        ) from fault


def _choose_version(versions: Sequence[ModelVersion], name: str) -> tuple[ModelVersion, str]:
    """The champion, or else the challenger, and what the reader should know of the choice."""
    for alias in ("champion", "challenger"):
        for version in versions:
            if alias in version.aliases:
                note = "" if alias == "champion" else f"{name} has no champion yet: its challenger answers"
                return version, note
    raise ServingError(
        f"model {name}",
        found="none has the alias champion or challenger" if versions else "nothing is registered",
        expected="a registered model",
        hint="name one with --model" if versions else "thaw run",
        details=[str(version) for version in versions],
    )


def _predict_some(model: Any, files: Sequence[Path]) -> list[FilePrediction]:
    """Predictions for some files; one that cannot be used gets an error, and spoils no other's."""
    contents: dict[int, bytes] = {}
    answers: dict[int, Mapping[str, float] | str] = {}
    for position, file in enumerate(files):
        try:
            contents[position] = file.read_bytes()
        except OSError as fault:
            answers[position] = (fault.strerror or str(fault)).lower()
    for position, answer in zip(contents, _ask_model(model, list(contents.values())), strict=True):
        answers[position] = answer
    return [_to_prediction(file, answers[position]) for position, file in enumerate(files)]


def _ask_model(model: Any, contents: Sequence[bytes]) -> list[Mapping[str, float] | str]:
    """For each file's content the probability of each label, or what is wrong with it."""
    from pipeline.tracking import packaging

    if not contents:
        return []
    try:
        return list(packaging.ask(model, INPUT_COLUMN, contents)["probabilities"])
    except Exception as fault:
        if len(contents) == 1:
            return [re.sub(r"^row 0: ", "", str(fault))]
    answers: list[Mapping[str, float] | str] = []
    for content in contents:
        answers += _ask_model(model, [content])
    return answers


def _to_prediction(file: Path, answer: Mapping[str, float] | str) -> FilePrediction:
    if isinstance(answer, str):
        return FilePrediction(file, error=answer)
    likeliest = sorted(answer.items(), key=lambda item: -item[1])
    label, score = likeliest[0]
    return FilePrediction(file, label=label, score=score, top=tuple(likeliest[:LABELS_SHOWN]))


def format_json_lines(predictions: FilePredictions) -> Iterator[str]:
    """One JSON object a file."""
    for prediction in predictions:
        values: dict[str, Any] = {"file": str(prediction.file), "model": predictions.model}
        if prediction.error:
            values["error"] = prediction.error
        else:
            values["label"] = prediction.label
            values["score"] = prediction.score
            values["top"] = [{"label": label, "score": score} for label, score in prediction.top]
        yield json.dumps(values)


def format_table(predictions: FilePredictions) -> Iterator[str]:
    """A table for the eye: file, label, score, the runners-up."""
    yield predictions.model + (f"  ({predictions.note})" if predictions.note else "")
    names = [printable(str(prediction.file)) for prediction in predictions]
    name_width = max(len(name) for name in names)
    label_width = max(len(prediction.label) for prediction in predictions)
    for name, prediction in zip(names, predictions, strict=True):
        if prediction.error:
            yield f"{name:<{name_width}}  cannot be used: {prediction.error}"
            continue
        others = "  ".join(f"{label} {score:.1%}" for label, score in prediction.top[1:])
        label = f"{prediction.label:<{label_width}}"
        yield f"{name:<{name_width}}  {label}  {prediction.score:6.1%}  {others}".rstrip()
