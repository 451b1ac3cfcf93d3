"""How often the rule of promotion is wrong, by simulation: models that are equally good, looked at once and twenty times,
on single examples and on groups that swing together; and how often it sees a model that is better.

    python bench/promotion.py [--draws 4000]

Prints a table; the standard error of a share is beside it. One core, a few minutes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from scipy.stats import binomtest

from pipeline.config import PromotionConfig
from pipeline.evaluation.bootstrap import BootstrapSettings
from pipeline.evaluation.compare import (
    judge_difference,
    paired_difference,
    sign_flip_test,
)
from pipeline.promotion.decide import Policy, decide
from pipeline.promotion.evidence import ChampionComparison, Evidence
from pipeline.promotion.paired_gain import ExampleGains

console = Console(highlight=False, soft_wrap=True)

ALIKE = 0.10  # the share of examples on which two models of one quality disagree
SIGNIFICANCE = 0.01  # at which a share above the error rate is called one


class Layout(NamedTuple):
    """A test split.

    Args:
        groups: how many there are, of `size` examples each; of single examples the size
            is 1.
    """

    name: str
    groups: int
    size: int


LAYOUTS = (
    Layout("40 examples", 40, 1),
    Layout("150 examples", 150, 1),
    Layout("500 examples", 500, 1),
    Layout("8 groups of 10", 8, 10),
    Layout("20 groups of 10", 20, 10),
    Layout("60 groups of 5", 60, 5),
)


def draw_gains(
    layout: Layout, gain: float, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Gains (examples,) of −1, 0 and 1 whose mean is `gain`.

    In groups, the examples of a group swing together: nine tenths of what differs in
    one go the same way.
    """
    up = (ALIKE + gain) / 2
    down = (ALIKE - gain) / 2
    if layout.size == 1:
        return generator.choice(
            [1.0, 0.0, -1.0], size=layout.groups, p=[up, 1 - up - down, down]
        )
    differs = generator.random((layout.groups, layout.size)) < 4 * ALIKE
    swings = generator.choice(
        [1.0, -1.0], size=(layout.groups, 1), p=[up / ALIKE, down / ALIKE]
    )
    loyal = np.where(
        generator.random((layout.groups, layout.size)) < 0.95, swings, -swings
    )
    return np.where(differs, loyal, 0.0).ravel()


def is_promoted(
    gains: NDArray[np.float64],
    units: NDArray[np.intp],
    promotion: PromotionConfig,
    seed: int,
) -> bool:
    gain = ExampleGains(gains, units, promotion.error_rate, seed)
    comparison = ChampionComparison(champion="1", gain=gain, examples=len(gains))
    evidence = Evidence(
        version="2", metrics={}, metric="accuracy", champion="1", comparison=comparison
    )
    return decide(evidence, Policy(promotion, {})).decision == "promote"


def share(draw: Callable[[int], bool], draws: int) -> tuple[int, float]:
    found = sum(draw(number) for number in range(draws))
    return found, found / draws


def simulate_one_look(
    layout: Layout, gain: float, promotion: PromotionConfig, draws: int
) -> tuple[int, float]:
    units = np.repeat(np.arange(layout.groups), layout.size).astype(np.intp)

    def draw(number: int) -> bool:
        generator = np.random.default_rng((1, number))
        return is_promoted(
            draw_gains(layout, gain, generator), units, promotion, number
        )

    return share(draw, draws)


def simulate_twenty_looks(
    layout: Layout, promotion: PromotionConfig, draws: int
) -> tuple[int, float]:
    """Any promotion among twenty challengers that are as good as the champion, all
    judged on one test split.

    The champion's answers are drawn once; each challenger disagrees with them on its
    own examples, more often where the champion is wrong, so that all have one accuracy.
    """
    units = np.arange(layout.groups).astype(np.intp)

    def draw(number: int) -> bool:
        generator = np.random.default_rng((2, number))
        champion = generator.random(layout.groups) < 0.9
        for _ in range(promotion.looks):
            loses = generator.random(layout.groups) < ALIKE / 2 / 0.9
            wins = generator.random(layout.groups) < ALIKE / 2 / 0.1
            challenger = np.where(champion, ~loses, wins)
            if is_promoted(
                challenger.astype(np.float64) - champion, units, promotion, number
            ):
                return True
        return False

    return share(draw, draws)


def simulate_earlier_rule(layout: Layout, draws: int) -> tuple[int, float]:
    """How often the evaluation's own comparison, at 95 % and two-sided, says better."""
    units = np.repeat(np.arange(layout.groups), layout.size).astype(np.intp)
    settings = BootstrapSettings(1000, 0.95, 0)

    def draw(number: int) -> bool:
        generator = np.random.default_rng((1, number))
        gains = draw_gains(layout, 0.0, generator)
        ours, theirs = gains > 0, gains < 0
        difference = paired_difference(ours, theirs, units, settings)
        return (
            judge_difference(difference, sign_flip_test(ours, theirs, units), 0.95)
            == "better"
        )

    return share(draw, draws)


def describe(name: str, found: int, draws: int, limit: float | None) -> str:
    value = found / draws
    error = (value * (1 - value) / draws) ** 0.5
    text = f"{name:<48} {value:7.2%} ± {error:.2%}"
    if limit is None:
        return text
    p_value = binomtest(found, draws, limit, alternative="greater").pvalue
    return f"{text}   allowed {limit:.2%}: {'above it' if p_value < SIGNIFICANCE else 'not above it'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=4000)
    draws = parser.parse_args().draws
    started = time.process_time()
    one_look = PromotionConfig(looks=1)
    twenty = PromotionConfig()
    for layout in LAYOUTS:
        for promotion in (one_look, twenty):
            name = f"equal, {layout.name}, one look of {promotion.looks}"
            found, _ = simulate_one_look(layout, 0.0, promotion, draws)
            console.print(describe(name, found, draws, promotion.error_rate))
        console.print(
            describe(
                f"  the evaluation's comparison, {layout.name}",
                simulate_earlier_rule(layout, draws)[0],
                draws,
                None,
            )
        )
    for layout in LAYOUTS[1:3]:
        found, _ = simulate_twenty_looks(layout, twenty, draws)
        console.print(
            describe(f"equal, {layout.name}, any of 20 looks", found, draws, 0.05)
        )
    found, _ = simulate_one_look(LAYOUTS[2], 0.05, twenty, draws)
    console.print(
        describe("better by 5 points, 500 examples, one look of 20", found, draws, None)
    )
    console.print(f"{time.process_time() - started:.0f} CPU seconds")


if __name__ == "__main__":
    main()
