"""Weights files: read without running anything they hold, and put into a network
strictly or not at all.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from pipeline.errors import BackboneError
from pipeline.models.transfer import is_web_page

_MOST_NAMES = 6  # listed a kind of mismatch
_PICKLE_BEGINNINGS = (b"PK\x03\x04", b"\x80")


class WeightsContent(NamedTuple):
    """A state dict on the CPU, floating point as fp32, and the text metadata of its
    file.
    """

    state: dict[str, Tensor]
    metadata: dict[str, str]


def read_weights(path: Path, *, pickles: bool = True) -> WeightsContent:
    """Reads a `.safetensors` file, or a `.pth`/`.pt` file of tensors alone.

    Checkpoints of training scripts are opened as far as their `model` or `state_dict`
    entry.

    Args:
        pickles: whether the second kind is opened.

    Raises:
        BackboneError: the file is broken, is a web page, holds anything but tensors, or
            tensors that are not finite.
    """
    with path.open("rb") as file:
        beginning = file.read(16)
    if is_web_page(beginning):
        raise _unreadable_error(
            path, "a web page", "download the weights again; a login may be needed"
        )
    is_pickle = _is_pickle(beginning)
    if is_pickle and not pickles:
        raise _unreadable_error(
            path,
            "a pickle, which is never opened here",
            "save the weights as safetensors",
        )
    content = _read_pickle(path) if is_pickle else _read_safetensors(path)
    state = {}
    for name, value in content.state.items():
        state[name.removeprefix("module.")] = _to_fp32(value)
    broken = [name for name, value in state.items() if not _is_finite(value)]
    if broken:
        raise _unreadable_error(
            path,
            "NaN or infinite values in " + _list_few(broken),
            "use another weights file",
        )
    return WeightsContent(keep_versions(state, content.state), content.metadata)


def _is_pickle(beginning: bytes) -> bool:
    # A safetensors file is a length of 8 bytes, whose first may be a pickle's 0x80 too,
    # and then JSON.
    is_safetensors = beginning[8:9] == b"{"
    return beginning.startswith(_PICKLE_BEGINNINGS) and not is_safetensors


def _to_fp32(value: Tensor) -> Tensor:
    value = value.detach()
    if value.is_floating_point():
        return value.to(torch.float32)
    return value


def _is_finite(value: Tensor) -> bool:
    if not value.is_floating_point():
        return True
    return bool(value.isfinite().all())


def _read_safetensors(path: Path) -> WeightsContent:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = sorted(file.keys())
            state = {name: file.get_tensor(name) for name in names}
            metadata = dict(file.metadata() or {})
    except SafetensorError as fault:
        raise _unreadable_error(
            path, f"a file that is not safetensors: {fault}", "fetch or save it again"
        ) from fault
    return WeightsContent(state, metadata)


def _read_pickle(path: Path) -> WeightsContent:
    try:
        # Opened here, since torch goes by the suffix of a path; it warns of pickle
        # formats that it then refuses.
        with path.open("rb") as file, warnings.catch_warnings(action="ignore"):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as fault:
        raise _unsafe_pickle_error(path, fault) from fault
    except (RuntimeError, EOFError, ValueError, KeyError, OSError) as fault:
        lines = str(fault).splitlines()
        reason = lines[0] if lines else type(fault).__name__
        raise _unreadable_error(
            path, f"a damaged file: {reason}", "fetch or save it again"
        ) from fault
    for entry in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(entry), Mapping):
            content = content[entry]
    if not _is_state_dict(content):
        kind = type(content).__name__
        raise _unreadable_error(
            path, f"a {kind}, not a state dict", "save model.state_dict()"
        )
    return WeightsContent(content, {})  # kept as it is for the versions it may carry


def _is_state_dict(content: object) -> bool:
    if not isinstance(content, Mapping):
        return False
    return all(isinstance(value, Tensor) for value in content.values())


def _unsafe_pickle_error(path: Path, fault: pickle.UnpicklingError) -> BackboneError:
    found = "a pickle that holds more than tensors"
    name = re.search(r"(?:GLOBAL|class|function|global) ([\w.]+\.[\w.]+)", str(fault))
    if name:
        found += f": {name[1]}"
    return BackboneError(
        str(path),
        found=found,
        expected="tensors by name",
        hint="nothing in it was run; save the state dict alone, best as .safetensors",
    )


def _unreadable_error(path: Path, found: str, hint: str) -> BackboneError:
    return BackboneError(
        str(path),
        found=found,
        expected="weights as .safetensors, or as .pth of tensors",
        hint=hint,
    )


def keep_versions(state: dict[str, Tensor], source: Any) -> dict[str, Tensor]:
    """A state dict with the layers' format versions of another, `source`: old files are
    converted by them.

    PyTorch hides them in an attribute of the state dict.
    """
    versions = getattr(source, "_metadata", None)
    if versions is None:
        return state
    versioned = OrderedDict(state)
    versioned._metadata = versions  # type: ignore[attr-defined]
    return versioned


def fill_network(network: nn.Module, state: Mapping[str, Tensor], subject: str) -> None:
    """Gives a network, which may be on the meta device, exactly these weights, as
    copies.

    Args:
        subject: where the weights are from, for the message.

    Raises:
        BackboneError: a name is missing, unexpected or of another shape; all kinds are
            listed.
    """
    copies = OrderedDict(
        (name, value.clone().contiguous()) for name, value in state.items()
    )
    # MNASNet refuses a state dict without the version of its format, which safetensors
    # has no place for.
    versions = getattr(state, "_metadata", None) or {"": {"version": network._version}}
    copies._metadata = versions  # type: ignore[attr-defined]
    try:
        network.load_state_dict(copies, strict=True, assign=True)
    except RuntimeError as fault:
        raise BackboneError(
            subject,
            found="weights of another network",
            expected=f"those of {type(network).__name__}",
            hint="give the architecture that the weights were made with",
            details=list_differences(network, copies),
        ) from fault


def list_differences(network: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """What keeps a state dict from fitting a network: missing and unexpected names,
    other shapes.
    """
    expected = network.state_dict()
    missing = []
    other_shape = []
    for name, value in expected.items():
        if name in state:
            if state[name].shape != value.shape:
                other_shape.append(
                    f"{name} is {tuple(state[name].shape)}, not {tuple(value.shape)}"
                )
        elif not name.endswith("num_batches_tracked"):
            missing.append(name)
    unexpected = [name for name in state if name not in expected]
    kinds = {"missing": missing, "unexpected": unexpected, "other shape": other_shape}
    differences = []
    for kind, names in kinds.items():
        if names:
            differences.append(f"{kind} ({len(names)}): {_list_few(names)}")
    return differences


def _list_few(names: Sequence[str]) -> str:
    text = ", ".join(names[:_MOST_NAMES])
    others = len(names) - _MOST_NAMES
    if others > 0:
        text += f" and {others} more"
    return text
