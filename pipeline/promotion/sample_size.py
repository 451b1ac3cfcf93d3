"""What a paired comparison of so many examples can show, and how many examples would
show a given gain.

Connor 1987, "Sample size for testing differences in proportions for the paired-sample
design", with the units' design effect in front: n = D · ((z_α √ψ + z_β √(ψ − δ²)) /
δ)².
"""

from __future__ import annotations

import math
from statistics import NormalDist

POWER = 0.8


def examples_needed(
    gain: float, disagreement: float, design_effect: float, error_rate: float
) -> int:
    """Examples that show a gain with a probability of `POWER`.

    Args:
        gain: δ > 0, the true mean gain.
        disagreement: ψ, the mean squared gain; at least δ².
        design_effect: D of the units.
        error_rate: one-sided.
    """
    standard = NormalDist()
    z_error = standard.inv_cdf(1 - error_rate)
    z_power = standard.inv_cdf(POWER)
    null_deviation = math.sqrt(disagreement)
    deviation = math.sqrt(max(disagreement - gain**2, 0.0))
    root = (z_error * null_deviation + z_power * deviation) / gain
    return math.ceil(max(design_effect, 1.0) * root**2)


def smallest_gain(
    examples: int, disagreement: float, design_effect: float, error_rate: float
) -> float | None:
    """The smallest gain that so many examples show with a probability of `POWER`; None
    where they show none at this disagreement, however large.
    """
    largest = math.sqrt(disagreement)
    if (
        largest == 0
        or examples_needed(largest, disagreement, design_effect, error_rate) > examples
    ):
        return None
    low, high = 0.0, largest
    for _ in range(50):
        middle = (low + high) / 2
        if examples_needed(middle, disagreement, design_effect, error_rate) > examples:
            low = middle
        else:
            high = middle
    return high
