"""Recipes as data: a name, and the stages it stands for.

| recipe | stages | source |
|---|---|---|
| head | the new head only | the linear probe (Alain and Bengio 2016) |
| full | everything at once, deeper blocks slower | Howard and Ruder 2018, section 3.1: discriminative rates |
| gradual | the head, then ever more blocks from the top down | ibid., section 3.2: gradual unfreezing |
| lp-ft | the head, then everything at a lower rate | Kumar et al. 2022, section 3.2: linear probing, then tuning |
| scratch | everything, from random weights | the comparison that says whether pretraining pays |

A linear head's own stage is solved and takes no epochs from the others; its `epochs`
are for a head that cannot be, which is trained for them (see
`pipeline.training.head_stage`).

`compare` is all five: which kind of fine-tuning pays here.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence

from pipeline.config import FinetuneConfig, StageConfig
from pipeline.errors import ConfigError

Stages = tuple[StageConfig, ...]
BASELINE = "scratch"


def recipe_names(config: FinetuneConfig) -> tuple[str, ...]:
    """The configured recipes, sets written out, each once."""
    names: list[str] = []
    for name in config.recipes:
        names += SETS.get(name, (name,))
    return tuple(dict.fromkeys(names))


def recipe_stages(name: str, config: FinetuneConfig, blocks: Sequence[str]) -> Stages:
    """The stages of a recipe for a network of these blocks (input to output, the head
    last).

    Raises:
        ConfigError: there is no such recipe, it has no stages, or two of its stages
            have one name.
    """
    check_name(name, config)
    if name in config.own:
        return _checked(name, config.own[name])
    return BUILT_IN[name](config, len(blocks) - 1)


def check_name(name: str, config: FinetuneConfig) -> None:
    """Raises ConfigError where there is no such recipe; the nearest name is given."""
    if name not in config.own and name not in BUILT_IN:
        known = [*BUILT_IN, *SETS, *config.own]
        close = difflib.get_close_matches(name, known, 1)
        raise ConfigError(
            "finetune.recipes",
            found=name,
            expected="one of " + ", ".join(known),
            hint=f"did you mean {close[0]}?"
            if close
            else "or describe it under finetune.own",
        )


def baseline(config: FinetuneConfig, steps_per_epoch: int) -> Stages:
    """`scratch` with a budget from settings alone, so that no candidate's early stop
    changes what it is compared with: `baseline_steps` in whole epochs, or the epochs of
    `gradual`, which are all that are configured.
    """
    epochs = config.epochs
    if config.baseline_steps is not None:
        epochs = -(-config.baseline_steps // steps_per_epoch)
    return scratch(config.model_copy(update={"epochs": epochs}), 0)


def divide_epochs(total: int, weights: Sequence[float]) -> list[int]:
    """Divides `total` epochs over stages, at least one each; with fewer epochs than
    stages the first get them.
    """
    counts = [1 if number < total else 0 for number in range(len(weights))]
    whole = sum(weights)
    shares = [total * weight / whole for weight in weights]
    for _ in range(total - sum(counts)):
        missing = []
        for share, count in zip(shares, counts, strict=True):
            missing.append(share - count)
        furthest_behind = missing.index(max(missing))
        counts[furthest_behind] += 1
    return counts


def head(config: FinetuneConfig, depth: int) -> Stages:
    stage = _stage(config, "head", ("head",), config.epochs)
    return (stage,)


def full(config: FinetuneConfig, depth: int) -> Stages:
    stage = _stage(config, "full", ("all",), config.epochs)
    return (stage,)


def gradual(config: FinetuneConfig, depth: int) -> Stages:
    """The head; then the upper third of the `depth` blocks below it; then two thirds:
    what lies at the very bottom, edges and colours, is the most general and the dearest
    to train (Yosinski et al. 2014).
    """
    third = max(1, round(depth / 3))
    rows = [
        ("head", ("head",), 1.0),
        ("top", (f"last:{third}",), 0.5),
        ("deep", (f"last:{min(2 * third, depth)}",), 0.25),
    ]
    counts = _beside_head(config, (0.3, 0.35, 0.35))
    stages: list[StageConfig] = []
    for (name, train, scale), epochs in zip(rows, counts, strict=True):
        if epochs:
            stages.append(_stage(config, name, train, epochs, scale))
    return tuple(stages)


def lp_ft(config: FinetuneConfig, depth: int) -> Stages:
    probe, tune = _beside_head(config, (0.4, 0.6))
    probe_stage = _stage(config, "probe", ("head",), probe)
    if not tune:
        return (probe_stage,)
    return probe_stage, _stage(config, "tune", ("all",), tune, 0.1)


def scratch(config: FinetuneConfig, depth: int) -> Stages:
    stage = StageConfig(
        name="scratch",
        train=("all",),
        epochs=config.epochs,
        lr=config.lr if config.scratch_lr is None else config.scratch_lr,
        batchnorm="train",
        init="random",
    )
    return (stage,)


def _beside_head(config: FinetuneConfig, weights: Sequence[float]) -> list[int]:
    """Epochs of the stages, the head's first: where it is solved, the others have all
    of them between them.
    """
    epochs = divide_epochs(config.epochs, weights)
    if config.head_solver == "optimizer":
        return epochs
    return [epochs[0], *divide_epochs(config.epochs, weights[1:])]


BUILT_IN: dict[str, Callable[[FinetuneConfig, int], Stages]] = {
    "scratch": scratch,
    "head": head,
    "gradual": gradual,
    "full": full,
    "lp-ft": lp_ft,
}
SETS = {"compare": tuple(BUILT_IN)}


def _stage(
    config: FinetuneConfig,
    name: str,
    train: tuple[str, ...],
    epochs: int,
    scale: float = 1.0,
) -> StageConfig:
    lr = config.lr
    if lr != "auto":
        lr = lr * scale
    body_lr = None if config.body_lr is None else config.body_lr * scale
    return StageConfig(
        name=name,
        train=train,
        frozen=config.frozen,
        epochs=epochs,
        lr=lr,
        body_lr=body_lr,
        lr_decay=config.lr_decay,
    )


def _checked(name: str, own: Stages) -> Stages:
    names = [stage.name for stage in own]
    found = "no stages"
    if own:
        found = "two stages of one name: " + ", ".join(names)
    if not own or len(set(names)) < len(names):
        raise ConfigError(
            f"finetune.own.{name}",
            found=found,
            expected="at least one stage, each with its own name",
        )
    return own
