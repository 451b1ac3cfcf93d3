"""`thaw predict`: asks a registered model about files or texts."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.predict_requests import PredictionRequest, list_requests
from pipeline.errors import ConfigError, ServingError
from pipeline.text import printable
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from flows.draw_answers import AnswerDrawing
    from pipeline.tracking.registry import ModelVersion

LABELS_SHOWN = 3
CHARACTERS_SHOWN = 60  # of a text
ASKED_AT_ONCE = 32

Answer = Mapping[str, Any]  # the model's output columns by name


@dataclass(frozen=True)
class Prediction:
    """What the model says of one file or text, or why it cannot.

    Args:
        source: the file, with the line where it is a row of a table; empty for a text
            as it was typed.
        texts: what was asked about, by input column; none of a file that was sent as it
            is.
        score: probability of the label.
        top: the likeliest labels with their probabilities, likeliest first.
        truncated_tokens: how many tokens of a text were cut off, since the model reads
            no more; None where the model does not say.
        answer: of a model of boxes or masks, its output columns.
        drawing: the picture with the answer drawn in, where that was asked for.
    """

    source: str
    texts: Mapping[str, str]
    label: str = ""
    score: float = 0.0
    top: tuple[tuple[str, float], ...] = ()
    truncated_tokens: int | None = None
    answer: Answer = field(default_factory=dict)
    drawing: str = ""
    error: str = ""


class Predictions(list[Prediction]):
    """One prediction a question, in order; `model` says which version predicted, `note`
    what the reader should know, `colours` what classes were drawn in.
    """

    model: str = ""
    note: str = ""
    colours: str = ""


def predict(
    inputs: Sequence[str],
    model: str | None,
    workspace: Workspace,
    *,
    only_texts: bool = False,
    draw: Path | None = None,
) -> Predictions:
    """Predicts with a registered model; folders stand for the files below them, hidden
    ones left out.

    Args:
        inputs: files and folders; of a model of texts also texts, and tables whose rows
            are asked about.
        model: `models:/NAME@ALIAS` or `models:/NAME/VERSION`; None: the workspace's
            champion, or else its challenger.
        only_texts: take every input for a text, even where a file is called so.
        draw: where pictures with the answers drawn in are written to.

    Raises:
        ConfigError: the model's answers cannot be drawn; or an input names no file but
            looks like one, or there is no such model.
        ServingError: nothing is registered, or the model cannot be loaded.
        TrackingError: the registry is away.
    """
    from pipeline.tracking import packaging, registry
    from pipeline.tracking import store as stores
    from pipeline.tracking.registered_versions import registered

    config = workspace.config()
    store = stores.find(config.tracking, workspace)
    note = ""
    if model is None:
        versions = registered(config, workspace)
        version, note = _choose_version(versions, workspace.model_name(config))
    else:
        version = registry.find(store, model)
    loaded = _load_model(registry.fetch(store, version), version)
    predictions = Predictions()
    predictions.model = f"models:/{version.name}/{version.version}"
    predictions.note = note
    drawing = None if draw is None else _open_drawing(loaded, draw)
    requests = list_requests(
        inputs, packaging.input_columns(loaded), config.data, only_texts=only_texts
    )
    while chunk := list(itertools.islice(requests, ASKED_AT_ONCE)):
        predictions += _answer_requests(loaded, chunk, drawing)
    predictions.colours = drawing.describe_colours() if drawing else ""
    return predictions


def _open_drawing(model: Any, folder: Path) -> AnswerDrawing:
    from flows.draw_answers import AnswerDrawing
    from pipeline.tracking import packaging

    outputs = packaging.output_names(model)
    if not {"objects", "regions"} & set(outputs):
        raise ConfigError(
            "--draw",
            found=f"a model that answers {', '.join(outputs)}",
            expected="a model of boxes or masks",
            hint="leave --draw out",
        )
    return AnswerDrawing(folder)


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


def _choose_version(
    versions: Sequence[ModelVersion], name: str
) -> tuple[ModelVersion, str]:
    """The champion, or else the challenger, and what the reader should know of the
    choice.
    """
    for alias in ("champion", "challenger"):
        for version in versions:
            if alias in version.aliases:
                note = (
                    ""
                    if alias == "champion"
                    else f"{name} has no champion yet: its challenger answers"
                )
                return version, note
    raise ServingError(
        f"model {name}",
        found="none has the alias champion or challenger"
        if versions
        else "nothing is registered",
        expected="a registered model",
        hint="name one with --model" if versions else "thaw run",
        details=[str(version) for version in versions],
    )


def _answer_requests(
    model: Any, requests: Sequence[PredictionRequest], drawing: AnswerDrawing | None
) -> list[Prediction]:
    """Predictions for some requests; one that cannot be used gets an error, and spoils
    no other's.
    """
    usable = [request for request in requests if not request.error]
    answers = iter(_ask_model(model, usable))
    predictions = []
    for request in requests:
        prediction = _to_prediction(request, request.error or next(answers))
        if drawing is not None and not prediction.error:
            (content,) = request.values.values()
            assert isinstance(content, bytes)  # boxes and masks are those of files
            path = drawing.draw(prediction.source, content, prediction.answer)
            prediction = replace(prediction, drawing=str(path))
        predictions.append(prediction)
    return predictions


def _ask_model(model: Any, requests: Sequence[PredictionRequest]) -> list[Answer | str]:
    """For each request the model's output columns, or what is wrong with it, found by
    halving.
    """
    from pipeline.tracking import packaging

    if not requests:
        return []
    columns = {}
    for column in requests[0].values:
        columns[column] = [request.values[column] for request in requests]
    try:
        return list(packaging.ask(model, columns).to_dict(orient="records"))
    except Exception as fault:
        if len(requests) == 1:
            return [re.sub(r"^row 0: ", "", str(fault))]
    middle = len(requests) // 2
    return [
        *_ask_model(model, requests[:middle]),
        *_ask_model(model, requests[middle:]),
    ]


def _to_prediction(request: PredictionRequest, answer: Answer | str) -> Prediction:
    if isinstance(answer, str):
        return Prediction(request.source, request.texts, error=answer)
    if "probabilities" not in answer:
        return Prediction(request.source, request.texts, answer=answer)
    likeliest = sorted(answer["probabilities"].items(), key=lambda item: -item[1])
    label, score = likeliest[0]
    return Prediction(
        request.source,
        request.texts,
        label,
        score,
        tuple(likeliest[:LABELS_SHOWN]),
        answer.get("truncated_tokens"),
    )


def format_json_lines(predictions: Predictions) -> Iterator[str]:
    """One JSON object a prediction."""
    for prediction in predictions:
        values: dict[str, Any] = {}
        if prediction.source:
            values["file"] = prediction.source
        values.update(prediction.texts)
        values["model"] = predictions.model
        if prediction.error:
            values["error"] = prediction.error
        elif prediction.answer:
            values.update(prediction.answer)
            if prediction.drawing:
                values["drawing"] = prediction.drawing
        else:
            values["label"] = prediction.label
            values["score"] = prediction.score
            values["top"] = [
                {"label": label, "score": score} for label, score in prediction.top
            ]
            if prediction.truncated_tokens is not None:
                values["truncated_tokens"] = prediction.truncated_tokens
        yield json.dumps(values, ensure_ascii=False)


def format_table(predictions: Predictions) -> Iterator[str]:
    """A table for the eye: file or text, label, score, the runners-up."""
    if predictions.note:
        yield f"{predictions.model}  ({predictions.note})"
    else:
        yield predictions.model
    names = [_shown_name(prediction) for prediction in predictions]
    name_width = max(len(name) for name in names)
    label_width = max(len(prediction.label) for prediction in predictions)
    for name, prediction in zip(names, predictions, strict=True):
        if prediction.error:
            yield f"{name:<{name_width}}  cannot be used: {prediction.error}"
            continue
        if prediction.answer:
            drawn = f"  {printable(prediction.drawing)}" if prediction.drawing else ""
            yield f"{name:<{name_width}}  {_summarize(prediction.answer)}{drawn}"
            continue
        others = "  ".join(
            f"{label} {score:.1%}" for label, score in prediction.top[1:]
        )
        label = f"{prediction.label:<{label_width}}"
        cut = "  (cut)" if prediction.truncated_tokens else ""
        line = f"{name:<{name_width}}  {label}  {prediction.score:6.1%}  {others}"
        yield line.rstrip() + cut
    if predictions.colours:
        yield f"drawn: {predictions.colours}"
    yield from _describe_truncation(predictions)


def _describe_truncation(predictions: Predictions) -> Iterator[str]:
    """How many texts were longer than the model reads, where some were."""
    answered = [prediction for prediction in predictions if not prediction.error]
    excess = [
        prediction.truncated_tokens
        for prediction in answered
        if prediction.truncated_tokens
    ]
    if excess:
        yield (
            "longer than the model reads, and cut: "
            f"{len(excess):,} of {len(answered):,} texts, "
            f"by {max(excess):,} tokens at most (task.input.max_tokens)"
        )


def _summarize(answer: Answer) -> str:
    """ "9 RBC, 1 WBC" of boxes; of masks the share of the picture that each class has."""
    if "objects" in answer:
        counts = Counter(each["label"] for each in answer["objects"])
        return (
            ", ".join(f"{count} {label}" for label, count in counts.most_common())
            or "nothing found"
        )
    size = answer["width"] * answer["height"]
    shares = []
    for region in answer["regions"]:
        shares.append(f"{region['label']} {region['pixels'] / size:.1%}")
    return ", ".join(shares) or "background alone"


def _shown_name(prediction: Prediction) -> str:
    """The file, and of texts the beginning."""
    cleaned = [" ".join(text.split()) for text in prediction.texts.values()]
    joined = " | ".join(cleaned)
    if len(joined) > CHARACTERS_SHOWN:
        joined = joined[:CHARACTERS_SHOWN].rstrip() + "…"
    parts = [part for part in (prediction.source, joined) if part]
    return printable("  ".join(parts))
