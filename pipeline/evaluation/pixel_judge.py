"""Masks judged: answers held against the truth, pixel by pixel, in the picture's own
pixels.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
    draw_resamples,
    number_units,
    percentile_interval,
)
from pipeline.evaluation.judge import (
    AnsweredExamples,
    ClassGoodness,
    ExhibitPlace,
    list_absent,
    subset_units,
)
from pipeline.manifest import write_table
from pipeline.objectives import pixel_boundary, pixel_metrics
from pipeline.objectives.pixel_confusion import count_confusion
from pipeline.objectives.pixel_metrics import Confusions, PixelTallies
from pipeline.objectives.pixel_targets import IGNORED
from pipeline.records import Comparison, Finding, MetricEstimate
from pipeline.serving.pixel_runs import decode_mask, encode_mask

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.config import EvaluateConfig
    from pipeline.config_section import TaskConfig
    from pipeline.evaluation.predict import LoadedCandidate
    from pipeline.records import CandidateRecord
    from pipeline.tasks.base import Task

CLASS_COLUMNS = (
    "label",
    "pictures",
    "pixels",
    "iou",
    "iou_low",
    "iou_high",
    "dice",
    "precision",
    "recall",
)
Runs = list[dict[str, Any]]  # as `pipeline.serving.pixel_runs` makes them


@dataclass(frozen=True)
class JudgedMasks:
    """A candidate's masks of N pictures, held against the truth.

    Args:
        confusions: (N, classes, classes) pixels of each picture; rows are the truth.
        boundaries: (N, 4, classes) pixels of outlines; see
            `pipeline.objectives.pixel_boundary`.
        answers: of each picture.
        sizes: width and height of each.
        units: (N,) what is resampled together.
        read_truth: reads the mask (H, W) of a picture by its number.
    """

    confusions: Confusions
    boundaries: NDArray[np.int64]
    answers: Sequence[Runs]
    sizes: Sequence[tuple[int, int]]
    units: Units
    read_truth: Callable[[int], NDArray[np.uint8]]

    @cached_property
    def goodness(self) -> Floats:
        """Mean IoU of each picture (N,)."""
        return pixel_metrics.picture_iou(self.confusions)

    @property
    def constant_goodness(self) -> Floats:
        """Mean IoU of each picture (N,) where every pixel is given the one class with
        which the pictures fare best.
        """
        truth = self.confusions.sum(axis=2)
        best = np.zeros(len(self.confusions))
        for code in range(truth.shape[1]):
            constant = np.zeros_like(self.confusions)
            constant[:, :, code] = truth
            goodness = pixel_metrics.picture_iou(constant)
            if code == 0 or goodness.mean() > best.mean():
                best = goodness
        return best

    def class_goodness(self, code: int) -> ClassGoodness:
        """IoU of the class in each picture that has it."""
        own = pixel_metrics.class_iou(
            pixel_metrics.tally_pixels(self.confusions, np.eye(len(self.confusions)))
        )[code]
        rows = self.confusions[:, code].sum(axis=1) > 0
        return ClassGoodness(rows, np.nan_to_num(own))

    def subset(self, rows: NDArray[np.bool_]) -> JudgedMasks:
        if rows.all():
            return self
        chosen = np.flatnonzero(rows).tolist()
        return JudgedMasks(
            self.confusions[rows],
            self.boundaries[rows],
            [self.answers[row] for row in chosen],
            [self.sizes[row] for row in chosen],
            subset_units(self.units, rows),
            lambda number: self.read_truth(chosen[number]),
        )

    def estimate_metrics(
        self, settings: BootstrapSettings
    ) -> dict[str, MetricEstimate]:
        """Every metric that is defined on these pictures, with its interval over
        resamples of the units.
        """
        return resampling.estimate_metrics("pixels", self, settings)

    def tally(self, weights: Weights) -> PixelTallies:
        """Weighted pixels by class."""
        return pixel_metrics.tally_pixels(self.confusions, weights)


def mean_iou(judged: JudgedMasks, weights: Weights) -> Floats:
    return pixel_metrics.mean_iou(judged.tally(weights))


def mean_dice(judged: JudgedMasks, weights: Weights) -> Floats:
    return pixel_metrics.mean_dice(judged.tally(weights))


def pixel_accuracy(judged: JudgedMasks, weights: Weights) -> Floats:
    return pixel_metrics.pixel_accuracy(judged.tally(weights))


def mean_class_accuracy(judged: JudgedMasks, weights: Weights) -> Floats:
    return pixel_metrics.mean_class_accuracy(judged.tally(weights))


def boundary_f1(judged: JudgedMasks, weights: Weights) -> Floats:
    return pixel_boundary.boundary_f1(judged.boundaries, weights)


class PixelJudge:
    """The Judge of masks."""

    goodness_metric = "mean_iou"

    def __init__(self, config: EvaluateConfig) -> None:
        self._config = config

    def judge(self, loaded: LoadedCandidate, table: pa.Table) -> JudgedMasks:
        """The masks in the pictures' own pixels, against the masks as they are."""
        from pipeline.tensors import single_tensor

        labels = loaded.candidate.labels
        widths = table["scan.width"].to_pylist()
        heights = table["scan.height"].to_pylist()
        sizes = list(zip(widths, heights, strict=True))
        confusions = np.zeros((table.num_rows, len(labels), len(labels)), np.int64)
        boundaries = np.zeros((table.num_rows, 4, len(labels)), np.int64)
        answers: list[Runs] = [[] for _ in sizes]
        read_truth = _truth_reader(
            loaded.task, loaded.task_config, loaded.data, table, labels
        )
        for rows, output in loaded.outputs():
            for row, logits in zip(rows.tolist(), single_tensor(output), strict=True):
                answer = answer_mask(
                    logits, table["path"][row].as_py(), sizes[row], loaded
                )
                truth = read_truth(row)
                confusions[row] = count_confusion(truth, answer, len(labels))
                boundaries[row] = pixel_boundary.count_boundaries(
                    truth, answer, len(labels)
                )
                answers[row] = encode_mask(answer, labels)
        return JudgedMasks(
            confusions,
            boundaries,
            answers,
            sizes,
            number_units(table["unit"]),
            read_truth,
        )

    def judge_answers(
        self, answers: Sequence[Mapping[str, Any]], examples: AnsweredExamples
    ) -> JudgedMasks:
        """Pixels of classes that not every model knows do not count."""
        labels = examples.labels
        counted = np.array([label in examples.compared for label in labels])
        codes = [labels.index(label) for label in examples.own_labels]
        own_codes = np.array(codes, np.uint8)
        read_own = _truth_reader(
            examples.task, examples.task_config, examples.data, examples.table, labels
        )

        def read_truth(row: int) -> NDArray[np.uint8]:
            truth = read_own(row)
            known = truth != IGNORED
            is_counted = counted[np.where(known, truth, 0)]
            truth[known & ~is_counted] = IGNORED
            return truth

        count = len(answers)
        confusions = np.zeros((count, len(labels), len(labels)), np.int64)
        boundaries = np.zeros((count, 4, len(labels)), np.int64)
        sizes = []
        for row, answer in enumerate(answers):
            truth = read_truth(row)
            height, width = truth.shape
            own_mask = decode_mask(
                answer["regions"], examples.own_labels, width, height
            )
            mask = own_codes[own_mask]
            confusions[row] = count_confusion(truth, mask, len(labels))
            boundaries[row] = pixel_boundary.count_boundaries(truth, mask, len(labels))
            sizes.append((width, height))
        regions = [list(answer["regions"]) for answer in answers]
        units = number_units(examples.table["unit"])
        return JudgedMasks(confusions, boundaries, regions, sizes, units, read_truth)

    def served_answers(
        self, predictions: pa.Table, candidate: CandidateRecord
    ) -> list[dict[str, Any]]:
        return [
            {"regions": json.loads(text)} for text in predictions["answer"].to_pylist()
        ]

    def compare(
        self,
        name: str,
        ours: JudgedMasks,
        theirs: JudgedMasks,
        settings: BootstrapSettings,
    ) -> Comparison:
        """The paired difference in mean IoU, by the bootstrap: it is no mean over
        pictures whose signs could be flipped.
        """
        return resampling.compare("mean_iou", name, ours, theirs, settings)

    def write_tables(
        self,
        judged: JudgedMasks,
        labels: tuple[str, ...],
        settings: BootstrapSettings,
        out: Path,
    ) -> None:
        """per_class.csv, and confusion.csv: shares of each class's pixels."""
        confusions = judged.confusions
        once = np.ones((len(judged.units), 1))
        tallies = pixel_metrics.tally_pixels(confusions, once)
        samples = []
        for _, weights in draw_resamples(judged.units, settings):
            resampled = pixel_metrics.tally_pixels(confusions, weights)
            samples.append(pixel_metrics.class_iou(resampled))
        class_samples = np.concatenate(samples, axis=1)
        overlap = pixel_metrics.class_iou(tallies)[:, 0]
        dice = pixel_metrics.class_dice(tallies)[:, 0]
        pictures = (confusions.sum(axis=2) > 0).sum(axis=0)
        rows: list[Sequence[tables.Cell]] = []
        for code, label in enumerate(labels):
            shared, truth, answer = (float(values[code, 0]) for values in tallies)
            estimate = None
            if np.isfinite(overlap[code]):
                estimate = percentile_interval(
                    float(overlap[code]), class_samples[code], settings.confidence
                )
            own_dice = None
            if np.isfinite(dice[code]):
                own_dice = float(dice[code])
            shares = (own_dice, _share(shared, answer), _share(shared, truth))
            counts = (int(pictures[code]), int(truth))
            rows.append((label, *counts, *tables.estimate_cells(estimate), *shares))
        tables.write_csv(out / "per_class.csv", CLASS_COLUMNS, rows)
        _write_confusion(confusions.sum(axis=0), labels, out / "confusion.csv")

    def write_answers(
        self, judged: JudgedMasks, table: pa.Table, labels: tuple[str, ...], path: Path
    ) -> None:
        """id, path, target, answer (regions as runs, JSON) and mean_iou."""
        import pyarrow as pa

        columns: dict[str, Any] = {
            name: table[name] for name in ("id", "path", "target")
        }
        columns["width"] = pa.array([width for width, _ in judged.sizes], pa.int64())
        columns["height"] = pa.array([height for _, height in judged.sizes], pa.int64())
        texts = [
            json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
            for answer in judged.answers
        ]
        columns["answer"] = pa.array(texts, pa.string())
        columns["mean_iou"] = pa.array(judged.goodness)
        write_table(pa.table(columns), path)

    def find_worst(self, judged: JudgedMasks, most: int) -> NDArray[np.int64]:
        """The pictures with the lowest mean IoU."""
        order = np.argsort(judged.goodness, kind="stable")
        is_wrong = judged.goodness[order] < 1
        worst: NDArray[np.int64] = order[is_wrong][:most]
        return worst

    def exhibit_worst(
        self, judged: JudgedMasks, rows: NDArray[np.int64], place: ExhibitPlace
    ) -> list[dict[str, Any]]:
        """Pictures beside their truth and their answer in colours."""
        from pipeline.evaluation.mask_drawing import draw_masks

        exhibits = []
        for number, (example, at) in enumerate(
            zip(place.examples, rows.tolist(), strict=True), start=1
        ):
            row = tables.exhibit(
                example, place.display, place.data, place.folder, f"{number:02d}"
            )
            answer = decode_mask(judged.answers[at], place.labels, *judged.sizes[at])
            draw_masks(
                place.folder / str(row["picture"]), judged.read_truth(at), answer
            )
            row["mean_iou"] = tables.six_digits(float(judged.goodness[at]))
            exhibits.append(row)
        return exhibits

    def warnings(self, judged: JudgedMasks, labels: tuple[str, ...]) -> list[Finding]:
        pixels_of_class = judged.confusions.sum(axis=(0, 2))
        present = set(np.flatnonzero(pixels_of_class).tolist())
        absent = list_absent(labels, present)
        return [] if absent is None else [absent]


def answer_mask(
    logits: Any, path: str, size: tuple[int, int], loaded: LoadedCandidate
) -> NDArray[np.uint8]:
    """The class (H, W) of each pixel of a picture, from logits (C, S, S) on its canvas;
    of a large picture from its tiles, as the served model answers it.

    Raises:
        DataError: a large picture cannot be decoded wholly.
    """
    from pipeline.evaluation.tiled_answers import find_tiles, label_in_tiles
    from pipeline.records import image_spec
    from pipeline.serving.canvas import lift_logits

    width, height = size
    tiles = find_tiles(loaded.candidate, width, height)
    if tiles is not None:
        return label_in_tiles(loaded, path, tiles)
    spec = image_spec(loaded.candidate.input)
    return lift_logits(logits, width, height, spec.size, spec.fit)


def _truth_reader(
    task: Task,
    task_config: TaskConfig,
    data: Path,
    table: pa.Table,
    labels: Sequence[str],
) -> Callable[[int], NDArray[np.uint8]]:
    """Reads the mask (H, W) of a row of the manifest by its number."""
    targets: Any = task.scorer.targets(table, labels)
    codec: Any = task.target_codec

    def read(row: int) -> NDArray[np.uint8]:
        mask: NDArray[np.uint8] = codec.read(
            targets.files[row], data, task_config, labels
        )
        return mask

    return read


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _write_confusion(
    confusion: NDArray[np.int64], labels: Sequence[str], path: Path
) -> None:
    rows: list[Sequence[tables.Cell]] = []
    for truth, counts in zip(labels, confusion.tolist(), strict=True):
        for answer, count in zip(labels, counts, strict=True):
            if count:
                rows.append((truth, answer, count))
    tables.write_csv(path, ("target", "predicted", "pixels"), rows)
