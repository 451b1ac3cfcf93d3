"""Checkpoints: everything a training needs to go on as if nothing had happened.

One file each, `000042-step-<fingerprint>.safetensors`: the tensors, and the state as
JSON in the header. It is written beside its place, flushed to the disk and renamed, so
that a name stands only for a whole file; and its fingerprint is checked before a byte
of it is believed. Besides the newest few, the one a stage began with is kept: it is
where a training that lost itself goes back to.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import files
from pipeline.context import Console
from pipeline.errors import TrainingError
from pipeline.training import fingerprint
from pipeline.training.crash_points import crash_point
from pipeline.training.numerics import NonFiniteError

if TYPE_CHECKING:
    import torch

SUFFIX = ".safetensors"
# Raised where a checkpoint holds other fields; one of another version is not read.
VERSION = 2
START, STEP = "start", "step"


@dataclass
class Checkpoint:
    """What one file holds.

    Args:
        state: where the training is; plain JSON values.
        tensors: `model/…`, `best/…`, `optimizer/…` → tensor on the CPU.
        identity: what determines the training; a checkpoint of another one is refused.
    """

    state: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    identity: Mapping[str, object]

    def part(self, name: str) -> dict[str, torch.Tensor]:
        """The tensors of one part, without its prefix."""
        prefix = f"{name}/"
        tensors: dict[str, torch.Tensor] = {}
        for key, tensor in self.tensors.items():
            if key.startswith(prefix):
                tensors[key.removeprefix(prefix)] = tensor
        return tensors


@dataclass
class Checkpoints:
    """The checkpoints of one training, in a folder of its own."""

    folder: Path
    identity: Mapping[str, object]
    console: Console
    keep: int = 2
    every_seconds: float = 60.0
    _saved_at: float = field(default_factory=time.monotonic)

    def due(self) -> bool:
        """Whether the last save is long enough ago."""
        seconds = time.monotonic() - self._saved_at
        return seconds >= self.every_seconds

    def save(
        self,
        state: Mapping[str, object],
        tensors: Mapping[str, torch.Tensor],
        *,
        start: bool = False,
    ) -> bool:
        """Writes a checkpoint and removes older ones; False where the disk refused,
        which is said: the older checkpoint stays and the training may go on.

        Args:
            start: this is what a stage begins with.

        Raises:
            NonFiniteError: a tensor has NaN or infinity. The older checkpoint stays.
        """
        _refuse_broken(tensors)
        crash_point("before-save")
        self._saved_at = time.monotonic()
        try:
            self._write(_portable(tensors), dict(state), start)
        except OSError as fault:
            self.console.info(
                f"no checkpoint could be written in {self.folder} ({fault}); the one before is kept, training goes on"
            )
            return False
        crash_point("after-save")
        self._prune()
        return True

    def load(self, *, start: bool = False) -> Checkpoint | None:
        """The newest checkpoint that is whole, or, for `start`, the newest that a stage
        began with; None without.

        Raises:
            TrainingError: it belongs to another training: other settings, data or
                weights; names the difference.
        """
        for path in reversed(self._paths(START if start else "*")):
            checkpoint = self._read(path)
            if checkpoint is not None:
                self._check_identity(checkpoint, path)
                return checkpoint
        return None

    def clear(self) -> None:
        """Removes all of them: the training is finished."""
        for path in [*self._paths(), *self._leftovers()]:
            path.unlink(missing_ok=True)
        if not self.folder.is_dir():
            return
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _write(
        self, tensors: dict[str, torch.Tensor], state: dict[str, object], start: bool
    ) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        self.folder.mkdir(parents=True, exist_ok=True)
        content = {"version": VERSION, "identity": self.identity, "state": state}
        header = {"thaw": json.dumps(content, allow_nan=False)}
        temporary = self.folder / f"{os.getpid()}.tmp"
        try:
            save_file(tensors, temporary, metadata=header)
            files.apply_umask(temporary)
            mark = fingerprint.of_file(temporary)
            _flush(temporary)
            crash_point("within-save")
            kind = START if start else STEP
            temporary.replace(
                self.folder / f"{self._next_number():06d}-{kind}-{mark}{SUFFIX}"
            )
            _flush(self.folder)
        except SafetensorError as fault:
            raise OSError(str(fault)) from fault
        finally:
            temporary.unlink(missing_ok=True)

    def _next_number(self) -> int:
        paths = self._paths()
        if not paths:
            return 1
        number, _, _ = paths[-1].name.partition("-")
        return int(number) + 1

    def _read(self, path: Path) -> Checkpoint | None:
        from safetensors import SafetensorError, safe_open

        try:
            if fingerprint.of_file(path) != path.stem.rpartition("-")[2]:
                raise OSError("its content does not match its fingerprint")
            with safe_open(path, framework="pt") as stream:
                values = json.loads(stream.metadata()["thaw"])
                if values.get("version") != VERSION:
                    raise OSError("it was written by another version of Thaw")
                tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        except (OSError, ValueError, KeyError, SafetensorError) as fault:
            self.console.info(
                f"checkpoint {path.name} cannot be used ({fault}); the one before it is"
            )
            return None
        return Checkpoint(values["state"], tensors, values["identity"])

    def _check_identity(self, checkpoint: Checkpoint, path: Path) -> None:
        identity = json.loads(json.dumps(self.identity))
        different = _differences(checkpoint.identity, identity)
        if different:
            raise TrainingError(
                f"checkpoint {path}",
                found="a training of other settings, data or weights",
                expected="the one that is to be resumed",
                hint=f"remove {path.parent} to begin anew",
                details=different,
            )

    def _prune(self) -> None:
        older = set(self._paths()[: -self.keep])
        newest_start = self._paths(START)[-1:]
        for path in older.difference(newest_start):
            path.unlink(missing_ok=True)
        for path in self._leftovers():
            path.unlink(missing_ok=True)

    def _paths(self, kind: str = "*") -> list[Path]:
        """The files, from the oldest to the newest."""
        pattern = f"[0-9]*-{kind}-*{SUFFIX}"
        return sorted(self.folder.glob(pattern))

    def _leftovers(self) -> list[Path]:
        return list(self.folder.glob("*.tmp"))


def _portable(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Contiguous tensors on the CPU that share no memory; those that do not already are
    copied.
    """
    addresses: set[int] = set()
    portable: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        plain = tensor.detach().cpu().contiguous()
        address = plain.untyped_storage().data_ptr()
        if address in addresses:
            plain = plain.clone()
        addresses.add(address)
        portable[name] = plain
    return portable


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refuse_broken(tensors: Mapping[str, torch.Tensor]) -> None:
    import torch

    broken: list[str] = []
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            broken.append(name)
    if broken:
        raise NonFiniteError(
            "checkpoint",
            found=f"{len(broken)} tensors with NaN or infinity",
            expected="finite weights and moments",
            hint="lower the learning rate, or set finetune.plan.precision: fp32; the last good checkpoint is kept",
            details=broken,
        )


def _differences(then: object, now: object, where: str = "") -> list[str]:
    if isinstance(then, dict) and isinstance(now, dict):
        lines: list[str] = []
        for key in sorted({*then, *now}):
            place = f"{where}.{key}" if where else str(key)
            lines += _differences(then.get(key), now.get(key), place)
        return lines
    if then == now:
        return []
    return [f"{where}: {json.dumps(then)} in the checkpoint, {json.dumps(now)} now"]
