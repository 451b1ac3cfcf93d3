"""What a verdict rests on: everything is measured before it is decided on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.promotion.paired_gain import PairedGain


@dataclass(frozen=True)
class PartGain:
    """The gain among some of the examples: those of a class, or of a slice by metadata.

    Args:
        name: `class cat`, or `camera = b`.
    """

    name: str
    gain: PairedGain


@dataclass(frozen=True)
class ChampionComparison:
    """Challenger and champion on the test examples that neither had learnt from.

    Args:
        champion: its version.
        gain: in the metric that decides; None where no example is left to compare them
            on.
        examples: how many they were compared on.
        seen: test examples left out since the champion had learnt from them, or from
            what belongs with them.
        unknown: test examples left out since their class is none of the champion's.
        parts: classes and slices with enough units.
        negative_flips: the share of examples that the champion gets right and the
            challenger wrong; None where answers are not right or wrong.
        positive_flips: the share the other way round.
        better: on how many examples the challenger's answer is better than the
            champion's; None where there are none.
        worse: on how many it is worse.
        flips: the folder, below `.thaw`, that shows some of them; empty where there is
            none.
        removed_classes: classes of the champion that the challenger does not know.
        new_classes: classes that only the challenger knows, with its recall of each;
            None where the test split has none.
    """

    champion: str
    gain: PairedGain | None
    examples: int
    seen: int = 0
    unknown: int = 0
    parts: tuple[PartGain, ...] = ()
    negative_flips: float | None = None
    positive_flips: float | None = None
    better: int | None = None
    worse: int | None = None
    flips: str = ""
    removed_classes: tuple[str, ...] = ()
    new_classes: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class Evidence:
    """What is known of a challenger.

    Args:
        version: of the challenger.
        metrics: its test metrics.
        metric: the one that decides, as it is named in text.
        champion: the champion's version; empty where there is none.
        same_weights: whether the champion has the same weights.
        champion_fault: why the champion cannot be compared with; empty where it can.
        comparison: with the champion.
        trivial: the gain over an answer that looks at nothing, for a first champion.
        scratch: what the evaluation says of the comparison with training from scratch;
            empty where that was not trained.
        looks: how many looks, this one among them, the test split has had.
        withdrawn: whether the version was rolled back before.
        dirty_reason: why the data's version does not lead back to the data; empty where
            it does.
        blocked: why the version cannot be served; empty where it can.
        megabytes: size of the weights.
        latency_ms: median for one example; None where it was not measured.
    """

    version: str
    metrics: Mapping[str, float]
    metric: str
    champion: str = ""
    same_weights: bool = False
    champion_fault: str = ""
    comparison: ChampionComparison | None = None
    trivial: PairedGain | None = None
    scratch: str = ""
    looks: int = 1
    withdrawn: bool = False
    dirty_reason: str = ""
    blocked: str = ""
    megabytes: float = 0.0
    latency_ms: float | None = None
