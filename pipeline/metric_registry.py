"""Every metric there is: its name, what a reader is told of it, which way is better,
and what computes it.

Validation, the choice of the best candidate, thresholds, the checks before a run, the
evaluation and the report all ask this table. To add a metric, add an entry here and
write the function that it names.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import ConfigError

TOP_K_NAME = re.compile(r"top_([1-9][0-9]*)_accuracy")
TargetKind = Literal["classes", "boxes", "pixels"]  # what an example's target is
# Which of two results is better where the metric that chooses is the same.
TIE_BREAKERS: dict[TargetKind, str] = {
    "classes": "log_loss",
    "boxes": "f1",
    "pixels": "pixel_accuracy",
}
AUROC_CLASSES = 100  # with more, one class against the rest says little and costs much


@dataclass(frozen=True)
class Metric:
    """One metric.

    Args:
        name: as in params.yaml, in records and in the tracking store.
        title: what a reader is shown for the name.
        note: what it measures, in a few words.
        function: `module:name` of what computes it, from the judged answers with their
            weights (and from k, where there is one) to one value a column of weights,
            (R,); imported where it is called, since it takes numpy.
        higher_is_better: whether more of it is better.
        is_share: whether it lies between 0 and 1 and is written in per cent.
        counts_examples: whether it is a plain share of the examples, so that 0 and 1
            have an exact interval.
        on_validation: whether it is measured after each epoch too, and so can choose
            the best candidate.
        is_costly: whether its interval rests on fewer resamples where the test split is
            large.
        most_classes: above so many classes it is not measured.
        k: how many of the most probable classes count as an answer.
        targets: the kind of targets that it judges.
    """

    name: str
    title: str
    note: str
    function: str
    higher_is_better: bool = True
    is_share: bool = True
    counts_examples: bool = False
    on_validation: bool = False
    is_costly: bool = False
    most_classes: int | None = None
    k: int | None = None
    targets: TargetKind = "classes"

    def format_gain(self, value: float) -> str:
        """A difference of two values with its sign: of a share in points."""
        if self.is_share:
            return f"{100 * value:+.1f}"
        return f"{value:+.3f}"


# In the order in which a reader meets them.
METRICS = (
    Metric(
        name="accuracy",
        title="Accuracy",
        note="share of examples given the right class",
        function="pipeline.evaluation.metrics:accuracy",
        counts_examples=True,
        on_validation=True,
    ),
    Metric(
        name="balanced_accuracy",
        title="Balanced accuracy",
        note="mean recall, every class counting the same",
        function="pipeline.evaluation.metrics:balanced_accuracy",
        on_validation=True,
    ),
    Metric(
        name="macro_f1",
        title="Macro F1",
        note="mean F1, every class counting the same",
        function="pipeline.evaluation.metrics:macro_f1",
        on_validation=True,
    ),
    Metric(
        name="auroc",
        title="AUROC",
        note="chance that the right class is ranked above a wrong one",
        function="pipeline.evaluation.metrics:auroc",
        is_costly=True,
        most_classes=AUROC_CLASSES,
    ),
    Metric(
        name="log_loss",
        title="Log loss",
        note="mean negative logarithm of the right class's probability",
        function="pipeline.evaluation.metrics:log_loss",
        higher_is_better=False,
        is_share=False,
        on_validation=True,
    ),
    Metric(
        name="calibration_error",
        title="Calibration error",
        note="typical gap between confidence and accuracy, beyond what chance makes",
        function="pipeline.evaluation.metrics:calibration_error",
        higher_is_better=False,
    ),
    Metric(
        name="mean_ap",
        title="Mean AP",
        note="average precision over overlaps 0.5 to 0.95 and classes, as COCO computes it",
        function="pipeline.evaluation.box_judge:mean_ap",
        on_validation=True,
        targets="boxes",
    ),
    Metric(
        name="mean_ap_50",
        title="Mean AP at 0.5",
        note="average precision over classes where half of box and object must be shared",
        function="pipeline.evaluation.box_judge:mean_ap_50",
        on_validation=True,
        targets="boxes",
    ),
    Metric(
        name="mean_ap_75",
        title="Mean AP at 0.75",
        note="average precision over classes where three quarters must be shared",
        function="pipeline.evaluation.box_judge:mean_ap_75",
        on_validation=True,
        targets="boxes",
    ),
    Metric(
        name="mean_ap_small",
        title="Mean AP, small",
        note="objects of less than 32 × 32 pixels",
        function="pipeline.evaluation.box_judge:mean_ap_small",
        targets="boxes",
    ),
    Metric(
        name="mean_ap_medium",
        title="Mean AP, medium",
        note="objects of 32 × 32 to 96 × 96 pixels",
        function="pipeline.evaluation.box_judge:mean_ap_medium",
        targets="boxes",
    ),
    Metric(
        name="mean_ap_large",
        title="Mean AP, large",
        note="objects of more than 96 × 96 pixels",
        function="pipeline.evaluation.box_judge:mean_ap_large",
        targets="boxes",
    ),
    Metric(
        name="average_recall",
        title="Average recall",
        note="share of the objects found, over overlaps 0.5 to 0.95 and classes",
        function="pipeline.evaluation.box_judge:average_recall",
        on_validation=True,
        targets="boxes",
    ),
    Metric(
        name="f1",
        title="F1",
        note="of boxes with at least the score that was best on validation, at overlap 0.5",
        function="pipeline.evaluation.box_judge:f1",
        on_validation=True,
        targets="boxes",
    ),
    Metric(
        name="mean_iou",
        title="Mean IoU",
        note="shared pixels over those of truth and answer together, over classes",
        function="pipeline.evaluation.pixel_judge:mean_iou",
        on_validation=True,
        targets="pixels",
    ),
    Metric(
        name="mean_dice",
        title="Mean Dice",
        note="twice the shared pixels over the sum of both, over classes",
        function="pipeline.evaluation.pixel_judge:mean_dice",
        on_validation=True,
        targets="pixels",
    ),
    Metric(
        name="pixel_accuracy",
        title="Pixel accuracy",
        note="share of pixels given the right class",
        function="pipeline.evaluation.pixel_judge:pixel_accuracy",
        on_validation=True,
        targets="pixels",
    ),
    Metric(
        name="mean_class_accuracy",
        title="Mean class accuracy",
        note="share of each class's pixels found, over classes",
        function="pipeline.evaluation.pixel_judge:mean_class_accuracy",
        on_validation=True,
        targets="pixels",
    ),
    Metric(
        name="boundary_f1",
        title="Boundary F1",
        note="how well outlines agree, to 0.75 % of the picture's diagonal, over classes",
        function="pipeline.evaluation.pixel_judge:boundary_f1",
        targets="pixels",
    ),
)


def top_k_accuracy(k: int) -> Metric:
    """The metric top_k_accuracy for one k."""
    return Metric(
        name=f"top_{k}_accuracy",
        title=f"Top-{k} accuracy",
        note=f"share with the right class among the {k} most probable",
        function="pipeline.evaluation.metrics:top_k_accuracy",
        counts_examples=True,
        k=k,
    )


def find(name: str) -> Metric:
    """The metric of that name.

    Raises:
        ConfigError: there is none.
    """
    match = TOP_K_NAME.fullmatch(name)
    if match is not None:
        return top_k_accuracy(int(match[1]))
    for metric in METRICS:
        if metric.name == name:
            return metric
    known = [metric.name for metric in METRICS]
    raise ConfigError(
        "metric",
        found=name,
        expected="one of " + ", ".join(known),
        hint=suggest(name, known),
    )


def suggest(name: str, known: list[str] | tuple[str, ...]) -> str:
    """A hint at the known name that is meant; empty where none is close."""
    close = difflib.get_close_matches(name, known, 1)
    if close:
        return f"did you mean {close[0]}?"
    return ""


def metrics_of(kind: TargetKind) -> list[Metric]:
    """The metrics of a kind of targets, in the order of the table."""
    return [metric for metric in METRICS if metric.targets == kind]


def measured_metrics(classes: int, wanted_k: int) -> list[Metric]:
    """The metrics that predictions of so many classes have, top-k accuracy for the k
    that `largest_k` gives.
    """
    measured = []
    for metric in metrics_of("classes"):
        if metric.most_classes is None or classes <= metric.most_classes:
            measured.append(metric)
    k = largest_k(classes, wanted_k)
    if k is not None:
        measured.append(top_k_accuracy(k))
    return measured


def threshold_names(
    wanted_k: int, classes: int | None = None, kind: TargetKind = "classes"
) -> tuple[str, ...]:
    """The metrics that a threshold may name: those that are measured, or any that may
    be where the number of classes is not known yet.
    """
    if kind != "classes":
        return tuple(metric.name for metric in metrics_of(kind))
    if classes is not None:
        return tuple(metric.name for metric in measured_metrics(classes, wanted_k))
    names = [metric.name for metric in metrics_of("classes")]
    for k in range(2, wanted_k + 1):
        names.append(top_k_accuracy(k).name)
    return tuple(names)


def validation_names(kind: TargetKind = "classes") -> tuple[str, ...]:
    """The metrics of a kind of targets that are measured after each epoch."""
    names = []
    for metric in metrics_of(kind):
        if metric.on_validation:
            names.append(metric.name)
    return tuple(names)


def largest_k(classes: int, wanted_k: int) -> int | None:
    """The k of top-k accuracy: at most classes − 1, at which every answer but the last
    is right; None where it would be 1.
    """
    k = min(wanted_k, classes - 1)
    return k if k > 1 else None


def sort_key(name: str) -> tuple[bool, int, str]:
    """Where a metric stands among others: what is better where it is higher comes
    first, top-k accuracy last of these, the others in the order of the table.
    """
    metric = find(name)
    names = [known.name for known in METRICS]
    if metric.k is not None:
        position = len(names)
    else:
        position = names.index(name)
    return not metric.higher_is_better, position, name
