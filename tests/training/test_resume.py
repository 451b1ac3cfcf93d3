"""An interruption changes nothing: kill -9 anywhere, resume, and the weights are the
same to the bit.
"""

from __future__ import annotations

import random
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.training.crash_points import POINTS
from tiny import Setting, elsewhere, train_and_hash

KILLED = -signal.SIGKILL
# When a training is over.
AFTERWARDS = ("after-candidate", "before-baseline", "before-pinning", "after-baseline")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> str:
    code, answer = elsewhere(
        train_and_hash, Setting(tmp_path_factory.mktemp("uninterrupted"))
    )
    assert code == 0, answer
    return str(answer)


@pytest.mark.slow
@pytest.mark.parametrize("passing", [1, 3])
@pytest.mark.parametrize(
    "point", [p for p in POINTS if p not in ("after-resume", "solving", *AFTERWARDS)]
)
def test_a_kill_at_any_named_point_changes_nothing(
    point: str, passing: int, tmp_path: Path, uninterrupted: str
) -> None:
    setting = Setting(tmp_path)
    code, _ = elsewhere(
        train_and_hash, setting, env={"THAW_CRASH_AT": f"{point}:{passing}"}
    )
    assert code == KILLED, "the kill never happened"
    assert elsewhere(train_and_hash, setting) == (0, uninterrupted)


@pytest.mark.slow
def test_kills_straight_after_resuming_change_nothing(
    tmp_path: Path, uninterrupted: str
) -> None:
    setting = Setting(tmp_path)
    for env in ("before-save:6", "after-resume", "after-resume", "within-save:4"):
        code, _ = elsewhere(train_and_hash, setting, env={"THAW_CRASH_AT": env})
        assert code == KILLED, "the kill never happened"
    assert elsewhere(train_and_hash, setting) == (0, uninterrupted)


def test_the_hash_tells_trainings_apart(tmp_path: Path, uninterrupted: str) -> None:
    """The negative control: a training resumed otherwise must not come to the same
    weights.
    """
    setting = Setting(tmp_path)
    assert (
        elsewhere(train_and_hash, setting, env={"THAW_CRASH_AT": "after-save:5"})[0]
        == KILLED
    )
    other = replace(setting, config=setting.config.model_copy(update={"seed": 1}))
    next((tmp_path / "checkpoints").iterdir()).rename(
        tmp_path / "checkpoints" / other.recipe().key[:32]
    )
    code, answer = elsewhere(_train_ignoring_identity, other)
    assert code == 0, answer
    assert answer != uninterrupted


def _train_ignoring_identity(setting: Setting) -> str:
    from pipeline.training import checkpoints

    checkpoints.Checkpoints._check_identity = lambda self, found, path: None  # type: ignore[method-assign]
    return train_and_hash(setting)


@pytest.mark.full
def test_fifty_kills_at_random_moments_change_nothing(
    tmp_path: Path, uninterrupted: str
) -> None:
    """By time, not by place: every training is killed again and again until one attempt
    lives to its end.
    """
    chance, kills = random.Random(0), 0
    while kills < 50:
        setting = replace(Setting(tmp_path / str(kills)), every_seconds=0.01)
        while True:
            code, answer = elsewhere(
                _train_under_threat, setting, chance.uniform(0.0, 0.4)
            )
            if code == 0:
                break
            assert code == KILLED, answer
            kills += 1
        assert answer == uninterrupted


def _train_under_threat(setting: Setting, seconds: float) -> str:
    import os
    import threading

    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
    timer.start()
    try:
        return train_and_hash(setting)
    finally:
        timer.cancel()
