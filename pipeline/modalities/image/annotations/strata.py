"""By which of its classes an image with several objects is assigned to a split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence


def rarest_classes(
    classes: Sequence[Sequence[str]], background: str | None = None
) -> list[str]:
    """For each image the rarest of its classes, counted over the objects of the whole
    set; of equal ones the first by name.

    Args:
        classes: of each image (N,), the class of each of its objects.
        background: a class that counts only where it is alone.

    Returns:
        A class for each image (N,); "" where it has none.
    """
    objects: Counter[str] = Counter()
    for labels in classes:
        objects.update(labels)
    return [_rarest(labels, objects, background) for labels in classes]


def _rarest(
    labels: Iterable[str], objects: Mapping[str, int], background: str | None
) -> str:
    own = set(labels)
    if len(own) > 1:
        own.discard(background or "")
    return min(own, key=lambda label: (objects[label], label), default="")
