"""Fingerprints of tensors and files at the speed of memory, to see that nothing
changed.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipeline.training.sampling import mix

if TYPE_CHECKING:
    import torch

ROW = 4096  # words hashed into one
# Words at a time: 1 MiB, so that temporaries stay in the processor's cache.
CHUNK = 32 * ROW


@functools.cache  # a network has hundreds of tensors, most of them small
def _weights() -> NDArray[np.uint64]:
    with np.errstate(over="ignore"):
        weights: NDArray[np.uint64] = mix(np.arange(ROW, dtype=np.uint64)) | np.uint64(
            1
        )
    weights.flags.writeable = False
    return weights


def fingerprint(data: NDArray[np.uint8], *about: object) -> str:
    """32 hex digits over raw bytes (N,) and whatever else is named in `about`.

    A multilinear hash modulo 2^64 (Carter and Wegman 1979, section 3) condenses rows of
    4096 words, BLAKE2 the rest. It detects corruption and is not cryptographic; hashing
    all bytes with SHA-256 would cost ten times as much.
    """
    header = repr((len(data), about))
    digest = hashlib.blake2b(header.encode(), digest_size=16)
    whole = len(data) // (8 * ROW) * ROW
    words = data[: 8 * whole].view(np.uint64)
    weights = _weights()
    with np.errstate(over="ignore"):
        for start in range(0, whole, CHUNK):
            part = words[start : start + CHUNK].reshape(-1, ROW)
            # Folding the upper half in keeps two flipped sign bits from cancelling out
            # modulo 2^64.
            folded = part ^ (part >> np.uint64(32))
            sums = np.einsum("ij,j->i", folded, weights)
            digest.update(sums.tobytes())
    digest.update(data[8 * whole :].tobytes())
    return digest.hexdigest()


def raw_bytes(tensor: torch.Tensor) -> NDArray[np.uint8]:
    """A tensor's bytes in logical order, without a copy where it is contiguous on the
    CPU: (N,) uint8.
    """
    import torch

    flat = tensor.detach().cpu().contiguous().reshape(-1)
    data: NDArray[np.uint8] = (
        flat.view(torch.uint8).numpy() if flat.numel() else np.zeros(0, np.uint8)
    )
    return data


def of_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """A fingerprint for each named tensor, over its bytes, type and shape."""
    fingerprints: dict[str, str] = {}
    for name, tensor in tensors.items():
        fingerprints[name] = fingerprint(
            raw_bytes(tensor), str(tensor.dtype), tuple(tensor.shape)
        )
    return fingerprints


def of_file(path: Path) -> str:
    """A fingerprint of a file's bytes."""
    return fingerprint(np.fromfile(path, np.uint8))
