"""Class answers judged: probabilities against the right class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation import tables
from pipeline.evaluation.bootstrap import BootstrapSettings, number_units
from pipeline.evaluation.calibration import reliability_bins
from pipeline.evaluation.compare import compare_accuracies
from pipeline.evaluation.judge import AnsweredExamples, ExhibitPlace, list_absent
from pipeline.evaluation.metrics import Predictions, check_probabilities
from pipeline.evaluation.per_class import count_confusions, score_classes
from pipeline.records import Comparison, Finding

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.config import EvaluateConfig
    from pipeline.evaluation.predict import LoadedCandidate
    from pipeline.records import CandidateRecord


class ClassJudge:
    """The Judge of class targets."""

    goodness_metric = "accuracy"

    def __init__(self, config: EvaluateConfig) -> None:
        self._config = config

    def judge(self, loaded: LoadedCandidate, table: pa.Table) -> Predictions:
        probabilities = loaded.answers()
        check_probabilities(
            probabilities, loaded.candidate.name, table["path"].to_pylist()
        )
        targets = np.asarray(loaded.task.scorer.targets(table, loaded.candidate.labels))
        return Predictions(
            probabilities, targets, number_units(table["unit"]), self._config.top_k
        )

    def judge_answers(
        self, answers: Sequence[Mapping[str, Any]], examples: AnsweredExamples
    ) -> Predictions:
        probabilities = np.zeros((len(answers), len(examples.labels)))
        for row, answer in enumerate(answers):
            own_probabilities = answer["probabilities"]
            probabilities[row] = [
                own_probabilities.get(label, 0.0) for label in examples.labels
            ]
        check_probabilities(probabilities, "served", examples.table["path"].to_pylist())
        targets = np.asarray(
            examples.task.scorer.targets(examples.table, examples.labels)
        )
        return Predictions(
            probabilities,
            targets,
            number_units(examples.table["unit"]),
            self._config.top_k,
        )

    def served_answers(
        self, predictions: pa.Table, candidate: CandidateRecord
    ) -> list[dict[str, Any]]:
        answers: list[dict[str, Any]] = []
        for row in predictions.to_pylist():
            answers.append(
                {
                    "probabilities": {
                        label: row[f"p.{label}"] for label in candidate.labels
                    }
                }
            )
        return answers

    def compare(
        self,
        name: str,
        ours: Predictions,
        theirs: Predictions,
        settings: BootstrapSettings,
    ) -> Comparison:
        return compare_accuracies(
            name, ours.correct, theirs.correct, ours.units, settings
        )

    def write_tables(
        self,
        judged: Predictions,
        labels: tuple[str, ...],
        settings: BootstrapSettings,
        out: Path,
    ) -> None:
        tables.write_confusion(count_confusions(judged, labels), out / "confusion.csv")
        tables.write_classes(
            score_classes(judged, labels, settings), out / "per_class.csv"
        )
        tables.write_reliability(
            reliability_bins(judged, settings), out / "reliability.csv"
        )

    def write_answers(
        self, judged: Predictions, table: pa.Table, labels: tuple[str, ...], path: Path
    ) -> None:
        tables.write_predictions(judged, table, labels, path)

    def find_worst(self, judged: Predictions, most: int) -> NDArray[np.int64]:
        return tables.find_worst_errors(judged, most)

    def exhibit_worst(
        self, judged: Predictions, rows: NDArray[np.int64], place: ExhibitPlace
    ) -> list[dict[str, Any]]:
        """The most confident mistakes, with what spoke for the answers where the task
        can say.
        """
        answers = [int(answer) for answer in judged.predicted[rows]]
        highlights = place.explain(answers)
        exhibits = []
        for number, (example, marks, at) in enumerate(
            zip(place.examples, highlights, rows, strict=True), start=1
        ):
            row = tables.exhibit(
                example, place.display, place.data, place.folder, f"{number:02d}"
            )
            row.update(_describe(judged, int(at), place.labels))
            if marks:
                row["highlights"] = [list(mark) for mark in marks]
            exhibits.append(row)
        return exhibits

    def warnings(self, judged: Predictions, labels: tuple[str, ...]) -> list[Finding]:
        present = set(judged.targets.tolist())
        absent = list_absent(labels, present)
        return [] if absent is None else [absent]


def _describe(judged: Predictions, at: int, labels: Sequence[str]) -> Mapping[str, Any]:
    return {
        "predicted": labels[judged.predicted[at]],
        "confidence": tables.six_digits(float(judged.confidence[at])),
        "target_probability": tables.six_digits(float(judged.target_probability[at])),
    }
