"""Checkpoints: whole or not there, believed only when checked, never at the cost of the
one before.
"""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from consoles import RecordingConsole
from pipeline.errors import TrainingError
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.numerics import NonFiniteError
from tiny import Setting, elsewhere, train_and_hash, weights_hash

KILLED = -9


def made(folder: Path, **changed: Any) -> tuple[Checkpoints, RecordingConsole]:
    words = RecordingConsole()
    return Checkpoints(
        folder, {"seed": 0, "data": {"train": "abc"}}, words, **changed
    ), words


def save(checkpoints: Checkpoints, step: int, **options: Any) -> bool:
    return checkpoints.save(
        {"step": step}, {"model/x": torch.full((50,), float(step))}, **options
    )


def test_the_newest_comes_back_and_only_a_few_are_kept(tmp_path: Path) -> None:
    checkpoints, _ = made(tmp_path, keep=2)
    save(checkpoints, 0, start=True)
    assert all(save(checkpoints, step) for step in range(1, 6))
    found = checkpoints.load()
    assert found is not None
    assert found.state == {"step": 5}
    assert torch.equal(found.part("model")["x"], torch.full((50,), 5.0))
    assert len(list(tmp_path.iterdir())) == 3  # two, and the one the stage began with
    beginning = checkpoints.load(start=True)
    assert beginning is not None
    assert beginning.state == {"step": 0}


@pytest.mark.parametrize("harm", ["flip a bit", "cut", "empty", "rubbish"])
def test_a_damaged_newest_is_passed_over_for_the_one_before(
    harm: str, tmp_path: Path
) -> None:
    checkpoints, words = made(tmp_path)
    save(checkpoints, 1)
    save(checkpoints, 2)
    newest = max(tmp_path.iterdir())
    data = bytearray(newest.read_bytes())
    data[-3] ^= 1
    newest.write_bytes(
        {"flip a bit": data, "cut": data[:-100], "empty": b"", "rubbish": b"rubbish"}[
            harm
        ]
    )
    found = checkpoints.load()
    assert found is not None
    assert found.state == {"step": 1}
    assert "cannot be used" in words


def test_with_all_damaged_there_is_none(tmp_path: Path) -> None:
    checkpoints, words = made(tmp_path)
    save(checkpoints, 1)
    next(tmp_path.iterdir()).write_bytes(b"")
    assert checkpoints.load() is None
    assert "cannot be used" in words


def test_a_checkpoint_of_another_training_is_refused_with_the_difference(
    tmp_path: Path,
) -> None:
    checkpoints, words = made(tmp_path)
    save(checkpoints, 1)
    other = Checkpoints(tmp_path, {"seed": 1, "data": {"train": "xyz"}}, words)
    with pytest.raises(TrainingError, match="other settings") as fault:
        other.load()
    assert fault.value.details == (
        'data.train: "abc" in the checkpoint, "xyz" now',
        "seed: 0 in the checkpoint, 1 now",
    )


def test_a_checkpoint_of_another_version_is_said_and_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints, words = made(tmp_path)
    with monkeypatch.context() as earlier:
        earlier.setattr("pipeline.training.checkpoints.VERSION", 1)
        save(checkpoints, 1)
    assert checkpoints.load() is None
    assert "another version of Thaw" in words


def test_moments_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    checkpoints, _ = made(tmp_path)
    save(checkpoints, 1)
    with pytest.raises(NonFiniteError) as fault:
        checkpoints.save(
            {"step": 2}, {"optimizer/x:exp_avg": torch.tensor([1.0, float("nan")])}
        )
    assert fault.value.details == ("optimizer/x:exp_avg",)
    found = checkpoints.load()
    assert found is not None
    assert found.state == {"step": 1}


def test_tied_tensors_are_saved_twice(tmp_path: Path) -> None:
    checkpoints, _ = made(tmp_path)
    shared = torch.ones(3)
    checkpoints.save(
        {}, {"model/a": shared, "model/b": shared, "model/t": torch.rand(2, 3).t()}
    )
    found = checkpoints.load()
    assert found is not None
    assert found.part("model").keys() == {"a", "b", "t"}


@pytest.mark.slow
def test_a_full_disk_keeps_the_old_one_says_so_and_goes_on(tmp_path: Path) -> None:
    code, answer = elsewhere(_save_on_a_full_disk, tmp_path)
    assert code == 0, answer
    saved, said, state, left = answer
    assert saved is False
    assert "no checkpoint could be written" in said[0]
    assert state == {"step": 1}
    assert left == 1


def _save_on_a_full_disk(folder: Path) -> tuple[bool, list[str], dict[str, Any], int]:
    checkpoints, words = made(folder)
    save(checkpoints, 1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
    saved = checkpoints.save({"step": 2}, {"model/x": torch.zeros(100_000)})
    found = checkpoints.load()
    assert found is not None
    return saved, words.lines, found.state, len(list(folder.iterdir()))


@pytest.mark.slow
def test_a_training_whose_newest_checkpoint_is_damaged_comes_to_the_same_weights(
    tmp_path: Path,
) -> None:
    whole = train_and_hash(Setting(tmp_path / "whole"))
    setting = Setting(tmp_path / "hurt")
    code, _ = elsewhere(train_and_hash, setting, env={"THAW_CRASH_AT": "after-save:9"})
    assert code == KILLED, "the kill never happened"
    (folder,) = (setting.scratch / "checkpoints").iterdir()
    newest = max(folder.glob("*.safetensors"))
    newest.write_bytes(newest.read_bytes()[:-1])
    words = RecordingConsole()
    assert weights_hash(setting.train(words)) == whole
    assert "cannot be used" in words
    assert "going on from epoch 2" in words


def _tampered(folder: Path, change: Any) -> None:
    """Rewrites the newest checkpoint, fingerprint and all, as a faulty program might."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    from pipeline.training import fingerprint

    newest = max(folder.glob("*.safetensors"))
    with safe_open(newest, framework="pt") as stream:
        values = json.loads(stream.metadata()["thaw"])
        tensors = {name: stream.get_tensor(name).clone() for name in stream.keys()}  # noqa: SIM118
    change(values["state"], tensors)
    newest.unlink()
    plain = folder / "new"
    save_file(tensors, plain, metadata={"thaw": json.dumps(values)})
    plain.rename(
        newest.with_name(
            f"{newest.name.rpartition('-')[0]}-{fingerprint.of_file(plain)}.safetensors"
        )
    )


def _interrupted(tmp_path: Path) -> tuple[Setting, Path]:
    setting = Setting(tmp_path)
    code, _ = elsewhere(train_and_hash, setting, env={"THAW_CRASH_AT": "after-save:20"})
    assert code == KILLED, "the kill never happened"
    (folder,) = (setting.scratch / "checkpoints").iterdir()
    return setting, folder


def test_a_resume_that_forgets_an_optimiser_group_is_stopped(tmp_path: Path) -> None:
    setting, folder = _interrupted(tmp_path)
    _tampered(folder, lambda state, tensors: state["layout"].pop("top"))
    with pytest.raises(TrainingError, match="optimiser groups"):
        setting.train()


def test_a_resume_with_other_frozen_weights_is_stopped(tmp_path: Path) -> None:
    """The proof is of the stage's beginning, not of the resume: what changed in between
    shows.
    """
    setting, folder = _interrupted(tmp_path)
    _tampered(
        folder,
        lambda state, tensors: tensors["model/low.0.weight"].view(-1)[0].add_(1e-3),
    )
    with pytest.raises(TrainingError, match="frozen tensors changed") as fault:
        setting.train()
    assert fault.value.details == ("low.0.weight",)


def test_another_machine_is_said_and_noted(tmp_path: Path) -> None:
    setting, folder = _interrupted(tmp_path)
    _tampered(folder, lambda state, tensors: state["machine"].update(torch="1.0"))
    words = RecordingConsole()
    trained = setting.train(words)
    assert "not bit-identical" in words
    assert "torch: 1.0 before" in trained.state.notes[0]


def test_the_plan_of_the_checkpoint_is_obeyed(tmp_path: Path) -> None:
    setting, _ = _interrupted(tmp_path)
    other = Setting(
        tmp_path,
        plan=setting.plan.model_copy(
            update={"batch_size": 4, "memory_format": "channels-last"}
        ),
    )
    assert other.train().state.plan == setting.plan
