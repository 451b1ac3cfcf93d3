"""SIGTERM and SIGINT: saved and gone, in any phase, and the next run comes to the same
weights.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import Interrupted
from pipeline.training.interruption import interruptible
from tiny import Setting, TinyTask, tiny_task, train_and_hash, weights_hash


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize(
    "batch",
    [2, 7, 15, 18, 32],
    ids=["first", "validating", "second epoch", "second stage", "third"],
)
def test_a_signal_at_any_batch_is_saved_and_changes_nothing(
    number: signal.Signals, batch: int, tmp_path: Path
) -> None:
    whole = train_and_hash(Setting(tmp_path / "whole", every_seconds=1e9))
    setting = Setting(tmp_path / "stopped", every_seconds=1e9)
    calls = 0

    class Signalling(TinyTask):
        def prepare(self, *arguments: Any) -> torch.Tensor:
            nonlocal calls
            calls += 1
            if calls == batch:
                os.kill(os.getpid(), number)
            return super().prepare(*arguments)

    job = setting.job()
    former = signal.getsignal(number)
    setting.job = lambda console=None: replace(job, task=tiny_task(Signalling()))  # type: ignore[method-assign]
    with pytest.raises(Interrupted, match=number.name):
        setting.train()
    assert calls == batch, "it went on after the signal"
    assert signal.getsignal(number) is former
    assert (
        len(list(next((tmp_path / "stopped" / "checkpoints").iterdir()).iterdir())) >= 1
    )
    assert (
        weights_hash(Setting(tmp_path / "stopped", every_seconds=1e9).train()) == whole
    )


def _signal_oneself(times: int) -> None:
    with interruptible() as stop, stop.deferred() if times > 1 else nullcontext():
        for _ in range(times):
            assert not stop.asked.is_set() or times > 1
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        pytest.fail("it slept on")


def test_outside_the_training_a_signal_ends_the_work_at_once() -> None:
    with pytest.raises(Interrupted):
        _signal_oneself(times=1)


def test_a_second_signal_does_not_wait() -> None:
    with pytest.raises(Interrupted):
        _signal_oneself(times=2)


def test_in_another_thread_the_handlers_stay_as_they_are(tmp_path: Path) -> None:
    hashes: list[str] = []
    former = signal.getsignal(signal.SIGTERM)

    def work() -> None:
        with interruptible():
            assert signal.getsignal(signal.SIGTERM) is former
        hashes.append(train_and_hash(Setting(tmp_path / "thread", every_seconds=1e9)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert hashes == [train_and_hash(Setting(tmp_path / "main", every_seconds=1e9))]
