"""Weights files: read without running anything they hold, and put into a network strictly or not at all."""

from __future__ import annotations

import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pipeline.errors import BackboneError
from pipeline.models.transfer import is_page

_SHOWN = 6  # names listed a kind of mismatch


class WeightsContent(NamedTuple):
    """A state dict on the CPU, floating point as fp32, and the text metadata of its file."""

    state: dict[str, Tensor]
    metadata: dict[str, str]


def read(path: Path, *, pickles: bool = True) -> WeightsContent:
    """Reads a `.safetensors` file, or a `.pth`/`.pt` file of tensors alone.

    Checkpoints of training scripts are opened as far as their `model` or `state_dict` entry.

    Args:
        pickles: whether the second kind is opened.

    Raises:
        BackboneError: the file is broken, is a web page, holds anything but tensors, or tensors that are not finite.
    """
    with path.open("rb") as file:
        start = file.read(16)
    if is_page(start):
        raise _unreadable(path, "a web page", "download the weights again; a login may be needed")
    # A safetensors file is a length of 8 bytes, whose first may be a pickle's 0x80 too, and then JSON.
    pickled = start.startswith((b"PK\x03\x04", b"\x80")) and start[8:9] != b"{"
    if pickled and not pickles:
        raise _unreadable(path, "a pickle, which is never opened here", "save the weights as safetensors")
    weights = _read_pickle(path) if pickled else _read_safetensors(path)
    state = {key.removeprefix("module."): _plain(value) for key, value in weights.state.items()}
    broken = [key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise _unreadable(path, "NaN or infinite values in " + _few(broken), "use another weights file")
    return WeightsContent(with_versions(state, weights.state), weights.metadata)


def _read_safetensors(path: Path) -> WeightsContent:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return WeightsContent(
                {key: file.get_tensor(key) for key in sorted(file.keys())}, dict(file.metadata() or {})
            )
    except SafetensorError as fault:
        raise _unreadable(path, f"a file that is not safetensors: {fault}", "fetch or save it again") from fault


def _read_pickle(path: Path) -> WeightsContent:
    try:
        # Opened here, since torch goes by the suffix of a path; it warns of pickle formats that it then refuses.
        with path.open("rb") as file, warnings.catch_warnings(action="ignore"):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as fault:
        named = re.search(r"(?:GLOBAL|class|function|global) ([\w.]+\.[\w.]+)", str(fault))
        raise BackboneError(
            str(path), found="a pickle that holds more than tensors" + (f": {named[1]}" if named else ""),
            expected="tensors by name", hint="nothing in it was run; save the state dict alone, best as .safetensors",
        ) from fault  # fmt: skip
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as fault:
        first = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
        raise _unreadable(path, f"a damaged file: {first}", "fetch or save it again") from fault
    for entry in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(entry), Mapping):
            content = content[entry]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise _unreadable(path, f"a {type(content).__name__}, not a state dict", "save model.state_dict()")
    return WeightsContent(content, {})  # type: ignore[arg-type]  # kept as it is for the versions it may carry


def _unreadable(path: Path, found: str, hint: str) -> BackboneError:
    return BackboneError(str(path), found=found, expected="weights as .safetensors, or as .pth of tensors", hint=hint)


def _plain(value: Tensor) -> Tensor:
    return value.detach().to(torch.float32) if value.is_floating_point() else value.detach()


def with_versions(state: dict[str, Tensor], source: Any) -> dict[str, Tensor]:
    """Keeps the layers' format versions that PyTorch hides in a state dict: old files are converted by them."""
    versions = getattr(source, "_metadata", None)
    if versions is None:
        return state
    kept = OrderedDict(state)
    kept._metadata = versions  # type: ignore[attr-defined]
    return kept


def fill(network: nn.Module, state: Mapping[str, Tensor], subject: str) -> None:
    """Gives a network, which may be on the meta device, exactly these weights, as copies.

    Raises:
        BackboneError: a name is missing, unexpected or of another shape; all kinds are listed.
    """
    copies = OrderedDict((name, value.clone().contiguous()) for name, value in state.items())
    # MNASNet refuses a state dict without the version of its format, which safetensors has no place for.
    versions = getattr(state, "_metadata", None) or {"": {"version": network._version}}
    copies._metadata = versions  # type: ignore[attr-defined]
    try:
        network.load_state_dict(copies, strict=True, assign=True)
    except RuntimeError as fault:
        raise BackboneError(
            subject, found="weights of another network", expected=f"those of {type(network).__name__}",
            hint="give the architecture that the weights were made with", details=differences(network, copies),
        ) from fault  # fmt: skip


def differences(network: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """What keeps a state dict from fitting a network: missing and unexpected names, other shapes."""
    expected = network.state_dict()
    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in expected]
    shapes = [
        f"{key} is {tuple(state[key].shape)}, not {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and state[key].shape != value.shape
    ]
    kinds = {"missing": missing, "unexpected": unexpected, "other shape": shapes}
    return [f"{kind} ({len(names)}): {_few(names)}" for kind, names in kinds.items() if names]


def _few(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
