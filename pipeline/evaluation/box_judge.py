"""Boxes judged: answers held against the objects of each picture, in the picture's own
pixels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation import resampling, tables
from pipeline.evaluation.bootstrap import (
    BootstrapSettings,
    Floats,
    Units,
    Weights,
    estimate_statistic,
    number_units,
)
from pipeline.evaluation.judge import (
    AnsweredExamples,
    ClassGoodness,
    ExhibitPlace,
    list_absent,
    subset_units,
)
from pipeline.manifest import write_table
from pipeline.objectives.box_errors import (
    KINDS,
    count_errors,
    find_errors,
    measure_costs,
)
from pipeline.objectives.box_matching import CLASS, SCORE, list_answers
from pipeline.objectives.box_metrics import AT_50, AT_75, BoxJudgement
from pipeline.objectives.box_validation import BEST_SCORE, describe_boxes
from pipeline.records import Comparison, Finding, MetricEstimate

ANSWER_VALUES = CLASS + 1  # of a box
CLASS_COLUMNS = (
    "label",
    "objects",
    "answers",
    "ap",
    "ap_low",
    "ap_high",
    "ap_50",
    "precision",
    "recall",
    "f1",
)

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.config import EvaluateConfig
    from pipeline.evaluation.predict import LoadedCandidate
    from pipeline.records import CandidateRecord


@dataclass(frozen=True)
class JudgedBoxes:
    """A candidate's boxes for N pictures, held against the truth.

    Args:
        judgement: the boxes and the objects, in pixels of each picture.
        score: from which on a box is an answer: what was best on validation.
        units: (N,) what is resampled together.
    """

    judgement: BoxJudgement
    score: float
    units: Units

    @cached_property
    def goodness(self) -> Floats:
        """F1 of each picture (N,)."""
        return self.judgement.goodness(self.score)

    @property
    def constant_goodness(self) -> Floats:
        """1 where a picture (N,) has no object, which no box at all is right of."""
        nothing = [np.empty((0, ANSWER_VALUES))] * len(self.units)
        return BoxJudgement(
            self.judgement.truths, nothing, self.judgement.classes
        ).goodness(self.score)

    def class_goodness(self, code: int) -> ClassGoodness:
        """F1 of the class in each picture that has an object of it."""
        own = _restrict(self.judgement, frozenset({code}))
        rows = np.array(
            [bool((truth.trained.labels == code).any()) for truth in own.truths],
            np.bool_,
        )
        return ClassGoodness(rows, own.goodness(self.score))

    def subset(self, rows: NDArray[np.bool_]) -> JudgedBoxes:
        if rows.all():
            return self
        chosen = np.flatnonzero(rows).tolist()
        judgement = BoxJudgement(
            [self.judgement.truths[row] for row in chosen],
            [self.judgement.answers[row] for row in chosen],
            self.judgement.classes,
        )
        return JudgedBoxes(judgement, self.score, subset_units(self.units, rows))

    def estimate_metrics(
        self, settings: BootstrapSettings
    ) -> dict[str, MetricEstimate]:
        """Every metric that is defined on these pictures, with its interval over
        resamples of the units.
        """
        return resampling.estimate_metrics("boxes", self, settings)


def mean_ap(judged: JudgedBoxes, weights: Weights) -> Floats:
    return judged.judgement.mean_ap(weights)


def mean_ap_50(judged: JudgedBoxes, weights: Weights) -> Floats:
    return judged.judgement.mean_ap(weights, (AT_50,))


def mean_ap_75(judged: JudgedBoxes, weights: Weights) -> Floats:
    return judged.judgement.mean_ap(weights, (AT_75,))


def mean_ap_small(judged: JudgedBoxes, weights: Weights) -> Floats:
    return judged.judgement.mean_ap(weights, size="small")


def mean_ap_medium(judged: JudgedBoxes, weights: Weights) -> Floats:
    return judged.judgement.mean_ap(weights, size="medium")


def mean_ap_large(judged: JudgedBoxes, weights: Weights) -> Floats:
    return judged.judgement.mean_ap(weights, size="large")


def average_recall(judged: JudgedBoxes, weights: Weights) -> Floats:
    return judged.judgement.average_recall(weights)


def f1(judged: JudgedBoxes, weights: Weights) -> Floats:
    return judged.judgement.f1(weights, judged.score)


class BoxJudge:
    """The Judge of boxes."""

    goodness_metric = "f1"

    def __init__(self, config: EvaluateConfig) -> None:
        self._config = config

    def judge(self, loaded: LoadedCandidate, table: pa.Table) -> JudgedBoxes:
        """The boxes in the pictures' own pixels; those of large pictures from their
        tiles, as the served model answers.

        Raises:
            DataError: a large picture cannot be decoded wholly.
        """
        from pipeline.evaluation.tiled_answers import detect_in_tiles, find_tiles
        from pipeline.modalities.image.canvas import lift_boxes
        from pipeline.records import image_spec

        candidate = loaded.candidate
        targets: Any = loaded.task.scorer.targets(table, candidate.labels)
        spec = image_spec(candidate.input)
        answers = []
        paths = table["path"].to_pylist()
        for path, answer, picture in zip(
            paths, list_answers(loaded.answers()), targets.pictures, strict=True
        ):
            tiles = find_tiles(candidate, picture.width, picture.height)
            if tiles is None:
                answers.append(lift_boxes(answer, picture.width, picture.height, spec))
            else:
                answers.append(detect_in_tiles(loaded, path, tiles))
        judgement = BoxJudgement(targets.pictures, answers, len(candidate.labels))
        return JudgedBoxes(
            judgement, candidate.val[BEST_SCORE], number_units(table["unit"])
        )

    def judge_answers(
        self, answers: Sequence[Mapping[str, Any]], examples: AnsweredExamples
    ) -> JudgedBoxes:
        """Objects of classes that not every model knows are ignored, and boxes that
        name one are left out.
        """
        targets: Any = examples.task.scorer.targets(examples.table, examples.labels)
        codes = {label: code for code, label in enumerate(examples.labels)}
        boxes = [_read_objects(answer["objects"], codes) for answer in answers]
        judgement = BoxJudgement(targets.pictures, boxes, len(examples.labels))
        compared = frozenset(codes[label] for label in examples.compared)
        units = number_units(examples.table["unit"])
        return JudgedBoxes(_restrict(judgement, compared), 0.0, units)

    def served_answers(
        self, predictions: pa.Table, candidate: CandidateRecord
    ) -> list[dict[str, Any]]:
        """Without the boxes below the score that was best on validation."""
        least = candidate.val[BEST_SCORE]
        answers: list[dict[str, Any]] = []
        for text in predictions["answer"].to_pylist():
            answers.append(
                {"objects": [one for one in json.loads(text) if one["score"] >= least]}
            )
        return answers

    def compare(
        self,
        name: str,
        ours: JudgedBoxes,
        theirs: JudgedBoxes,
        settings: BootstrapSettings,
    ) -> Comparison:
        """The paired difference in mean average precision, by the bootstrap alone: a
        ranking has no sign to flip.
        """
        return resampling.compare("mean_ap", name, ours, theirs, settings)

    def write_tables(
        self,
        judged: JudgedBoxes,
        labels: tuple[str, ...],
        settings: BootstrapSettings,
        out: Path,
    ) -> None:
        """per_class.csv, and errors.csv: mistakes by kind and cost."""
        rows = []
        for code, label in enumerate(labels):
            rows.append((label, *_class_cells(judged, code, settings)))
        tables.write_csv(out / "per_class.csv", CLASS_COLUMNS, rows)
        _write_errors(judged, out / "errors.csv")

    def write_answers(
        self, judged: JudgedBoxes, table: pa.Table, labels: tuple[str, ...], path: Path
    ) -> None:
        """id, path, target and answer: boxes in the picture's pixels as JSON, best
        first.
        """
        import pyarrow as pa

        columns: dict[str, Any] = {
            name: table[name] for name in ("id", "path", "target")
        }
        texts = [
            json.dumps(describe_boxes(answer, labels), ensure_ascii=False)
            for answer in judged.judgement.answers
        ]
        columns["answer"] = pa.array(texts, pa.string())
        columns["f1"] = pa.array(judged.goodness)
        write_table(pa.table(columns), path)

    def find_worst(self, judged: JudgedBoxes, most: int) -> NDArray[np.int64]:
        """The pictures with the most mistakes: objects missed and answers that are
        none.
        """
        right, answered, objects = judged.judgement.tally(judged.score).T
        mistakes = answered + objects - 2 * right
        order = np.argsort(-mistakes, kind="stable")
        has_mistakes = mistakes[order] > 0
        worst: NDArray[np.int64] = order[has_mistakes][:most]
        return worst

    def exhibit_worst(
        self, judged: JudgedBoxes, rows: NDArray[np.int64], place: ExhibitPlace
    ) -> list[dict[str, Any]]:
        """Pictures with truth and answer drawn, and their mistakes counted."""
        from pipeline.evaluation.box_drawing import draw_boxes

        tallies = judged.judgement.tally(judged.score)
        exhibits = []
        for number, (example, at) in enumerate(
            zip(place.examples, rows.tolist(), strict=True), start=1
        ):
            row = tables.exhibit(
                example, place.display, place.data, place.folder, f"{number:02d}"
            )
            answer = judged.judgement.answers[at]
            shown = answer[answer[:, SCORE] >= judged.score]
            picture = place.folder / str(row["picture"])
            draw_boxes(picture, judged.judgement.truths[at], shown)
            right, answered, objects = tallies[at].astype(int).tolist()
            row.update(
                objects=objects,
                answered=answered,
                right=right,
                missed=objects - right,
                wrong=answered - right,
                target=_count_labels(
                    judged.judgement.truths[at].trained.labels, place.labels
                ),
                predicted=_count_labels(shown[:, CLASS].astype(np.int64), place.labels),
            )
            exhibits.append(row)
        return exhibits

    def warnings(self, judged: JudgedBoxes, labels: tuple[str, ...]) -> list[Finding]:
        present: set[int] = set()
        for truth in judged.judgement.truths:
            present.update(truth.trained.labels.tolist())
        absent = list_absent(labels, present)
        return [] if absent is None else [absent]


def _read_objects(
    objects: Sequence[Mapping[str, Any]], codes: Mapping[str, int]
) -> Floats:
    """Served boxes as (K, 6): left, top, right, bottom, score, class; best first."""
    rows = []
    for item in objects:
        code = codes[item["label"]]
        rows.append([*item["box"], item["score"], code])
    boxes = np.array(rows, np.float64).reshape(-1, ANSWER_VALUES)
    order = np.argsort(-boxes[:, SCORE], kind="stable")
    best_first: Floats = boxes[order]
    return best_first


def _restrict(judgement: BoxJudgement, codes: frozenset[int]) -> BoxJudgement:
    """Only the classes with these numbers: objects of others are ignored, answers that
    name others left out.
    """
    if len(codes) == judgement.classes:
        return judgement
    chosen = np.array(sorted(codes))
    truths = []
    for truth in judgement.truths:
        ignored = truth.ignored | ~np.isin(truth.labels, chosen)
        truths.append(replace(truth, ignored=ignored))
    answers = []
    for answer in judgement.answers:
        answers.append(answer[np.isin(answer[:, CLASS], chosen)])
    return BoxJudgement(truths, answers, judgement.classes)


def _write_errors(judged: JudgedBoxes, path: Path) -> None:
    judgement = judged.judgement
    counts = count_errors(
        find_errors(judgement.truths, judgement.answers, judged.score)
    )
    costs = measure_costs(judgement)
    rows: list[Sequence[tables.Cell]] = [
        (kind, counts[kind], costs[kind]) for kind in KINDS
    ]
    tables.write_csv(path, ("kind", "mistakes", "cost"), rows)


def _estimate_class_ap(
    judged: JudgedBoxes, code: int, settings: BootstrapSettings
) -> MetricEstimate:
    return estimate_statistic(
        lambda weights: judged.judgement.class_ap(code, weights), judged.units, settings
    )


def _class_cells(
    judged: JudgedBoxes, code: int, settings: BootstrapSettings
) -> list[tables.Cell]:
    """A class's row of per_class.csv behind its label."""
    matches = judged.judgement.matches()[code]
    shown = matches.scores >= judged.score
    right = int((matches.hits[AT_50] & shown).sum())
    answered = int((~matches.ignored[AT_50] & shown).sum())
    objects = int(matches.objects.sum())
    estimate = None
    at_50 = None
    if objects:
        once = np.ones((len(judged.units), 1))
        estimate = _estimate_class_ap(judged, code, settings)
        at_50 = float(judged.judgement.class_ap(code, once, (AT_50,))[0])
    return [
        objects,
        answered,
        *tables.estimate_cells(estimate),
        at_50,
        _share(right, answered),
        _share(right, objects),
        _share(2 * right, answered + objects),
    ]


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _count_labels(codes: NDArray[np.int64], labels: Sequence[str]) -> str:
    """ "3 RBC, 1 WBC"."""
    counts = np.bincount(codes, minlength=len(labels))
    parts = []
    for count, label in zip(counts.tolist(), labels, strict=True):
        if count:
            parts.append(f"{count} {label}")
    return ", ".join(parts) or "nothing"
