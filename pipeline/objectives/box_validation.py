"""What a validation says of boxes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.objectives.box_matching import CLASS, SCORE, list_answers
from pipeline.objectives.box_metrics import AT_50, AT_75, BoxJudgement
from pipeline.objectives.box_targets import BoxTargets

BEST_SCORE = "best_score"  # beside the metrics: from which score on F1 is highest


def compute_metrics(
    answers: NDArray[np.float32], targets: BoxTargets
) -> dict[str, float]:
    """The metrics of answers (N, detections, 6) against truths on the same canvas, and
    the score from which on answers give the highest F1. What no object asks for is 0.
    """
    classes = [int(picture.labels.max(initial=-1)) for picture in targets.pictures]
    highest = int(answers[..., CLASS].max(initial=0))
    judged = BoxJudgement(
        targets.pictures, list(list_answers(answers)), 1 + max([highest, *classes])
    )
    once = np.ones((len(targets), 1))
    best = judged.best_score
    values = {
        "mean_ap": judged.mean_ap(once),
        "mean_ap_50": judged.mean_ap(once, (AT_50,)),
        "mean_ap_75": judged.mean_ap(once, (AT_75,)),
        "average_recall": judged.average_recall(once),
        "f1": judged.f1(once, best),
    }
    metrics = {name: float(np.nan_to_num(value[0])) for name, value in values.items()}
    return {**metrics, BEST_SCORE: best}


def format_answer(answer: NDArray[np.float32], labels: Sequence[str]) -> str:
    """An answer (detections, 6) as JSON: a list of `{"box": […], "label": NAME,
    "score": …}`, best first.
    """
    is_filled = answer[:, SCORE] >= 0
    boxes = describe_boxes(answer[is_filled], labels)
    return json.dumps(boxes, ensure_ascii=False, separators=(",", ":"))


def describe_boxes(
    answer: NDArray[np.floating[Any]], labels: Sequence[str]
) -> list[dict[str, Any]]:
    """Boxes (K, 6) as JSON holds them."""
    objects = []
    for values in answer.tolist():
        corners = [round(value, 2) for value in values[:SCORE]]
        objects.append(
            {
                "box": corners,
                "label": labels[int(values[CLASS])],
                "score": round(values[SCORE], 5),
            }
        )
    return objects
