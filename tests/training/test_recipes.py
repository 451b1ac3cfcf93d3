"""Recipes: names that stand for stages."""

from __future__ import annotations

import pytest

from pipeline.config import FinetuneConfig, StageConfig
from pipeline.errors import ConfigError
from pipeline.training import recipes

BLOCKS = [f"layer{n}" for n in range(9)] + ["head"]


@pytest.mark.parametrize("name", recipes.BUILT_IN)
@pytest.mark.parametrize("epochs", [1, 2, 3, 15, 40])
@pytest.mark.parametrize("solver", ["auto", "optimizer"])
def test_a_built_in_recipe_spends_exactly_the_epochs_it_is_given(
    name: str, epochs: int, solver: str
) -> None:
    """A head that is solved beside other stages takes none from them."""
    stages = recipes.recipe_stages(
        name, FinetuneConfig(epochs=epochs, head_solver=solver), BLOCKS
    )
    trained = [stage for stage in stages if stage.train != ("head",)]
    counted = trained if solver == "auto" and trained else stages
    assert sum(stage.epochs for stage in counted) == epochs
    assert len({stage.name for stage in stages}) == len(stages)


def test_gradual_unfreezes_from_the_top_down() -> None:
    stages = recipes.recipe_stages("gradual", FinetuneConfig(), BLOCKS)
    assert [stage.train for stage in stages] == [("head",), ("last:3",), ("last:6",)]
    rates = [stage.lr for stage in stages]
    assert rates == sorted(rates, reverse=True)


def test_scratch_starts_from_random_weights_and_moves_its_statistics() -> None:
    (stage,) = recipes.recipe_stages("scratch", FinetuneConfig(), BLOCKS)
    assert (stage.init, stage.batchnorm, stage.train) == ("random", "train", ("all",))


@pytest.mark.parametrize(
    ("steps", "epochs"), [(None, 15), (1, 1), (10, 1), (11, 2), (100, 10)]
)
def test_the_baselines_budget_follows_from_settings_alone(
    steps: int | None, epochs: int
) -> None:
    (stage,) = recipes.baseline(
        FinetuneConfig(epochs=15, baseline_steps=steps), steps_per_epoch=10
    )
    assert stage.epochs == epochs


def test_by_default_the_baseline_may_do_the_steps_that_gradual_is_configured_to() -> (
    None
):
    config = FinetuneConfig(epochs=7)
    (stage,) = recipes.baseline(config, steps_per_epoch=10)
    gradual = recipes.recipe_stages("gradual", config, BLOCKS)
    # The head is solved.
    assert stage.epochs == sum(
        stage.epochs for stage in gradual if stage.train != ("head",)
    )
    trained = config.model_copy(update={"head_solver": "optimizer"})
    assert stage.epochs == sum(
        stage.epochs for stage in recipes.recipe_stages("gradual", trained, BLOCKS)
    )


def test_a_recipe_of_ones_own() -> None:
    own = (StageConfig(name="a", train=("layer8",), epochs=2),)
    assert (
        recipes.recipe_stages("mine", FinetuneConfig(own={"mine": own}), BLOCKS) == own
    )


def test_an_unknown_recipe_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean gradual") as fault:
        recipes.recipe_stages("gradul", FinetuneConfig(), BLOCKS)
    assert "lp-ft" in fault.value.expected


def test_two_stages_of_one_name_are_refused() -> None:
    own = (StageConfig(name="a", train=("head",), epochs=1),) * 2
    with pytest.raises(ConfigError, match="two stages of one name"):
        recipes.recipe_stages("mine", FinetuneConfig(own={"mine": own}), BLOCKS)


def test_auto_rates_stay_auto() -> None:
    assert {
        stage.lr
        for stage in recipes.recipe_stages("gradual", FinetuneConfig(lr="auto"), BLOCKS)
    } == {"auto"}


def test_compare_is_every_built_in_recipe_once() -> None:
    config = FinetuneConfig(recipes=("head", "compare"))
    assert recipes.recipe_names(config) == (
        "head",
        "scratch",
        "gradual",
        "full",
        "lp-ft",
    )
    assert set(recipes.recipe_names(config)) == set(recipes.BUILT_IN)


def test_blocks_that_stay_frozen_are_trained_by_no_recipe_but_scratch() -> None:
    config = FinetuneConfig(frozen=("low",))
    assert all(
        stage.frozen == ("low",)
        for name in ("head", "full", "gradual", "lp-ft")
        for stage in recipes.recipe_stages(name, config, ["low", "mid", "head"])
    )
    assert all(
        not stage.frozen
        for stage in recipes.recipe_stages("scratch", config, ["low", "mid", "head"])
    )
