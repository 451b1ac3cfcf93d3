"""The freeze proof: what a stage leaves frozen is the same to the bit before and after
it.

Every parameter and buffer of a frozen block is fingerprinted, by name: BatchNorm
statistics are buffers, and two tensors of equal values stay two. That costs reading
them once, some gigabytes a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.errors import TrainingError
from pipeline.records import digest
from pipeline.training import fingerprint
from pipeline.training.stages import StageScope, block_tensors, wrong_modes

if TYPE_CHECKING:
    from pipeline.models.network import BlockedNetwork


def checksums(model: BlockedNetwork, scope: StageScope) -> dict[str, str]:
    """Fingerprints of all frozen tensors."""
    return fingerprint.of_tensors(block_tensors(model, scope.frozen))


def verify_frozen(
    before: dict[str, str], model: BlockedNetwork, scope: StageScope, stage: str
) -> str:
    """The digest over all frozen tensors.

    Raises:
        TrainingError: one of them changed since `before`; names each.
    """
    after = checksums(model, scope)
    names = dict.fromkeys([*before, *after])
    changed = [name for name in names if before.get(name) != after.get(name)]
    if changed:
        raise TrainingError(
            f"stage '{stage}'",
            found=f"{len(changed)} frozen tensors changed",
            expected="every parameter and buffer of a frozen block the same to the bit",
            hint="this is a fault of Thaw or of the network's own code; nothing trained by it is used",
            details=changed,
        )
    return digest(after)


def check_modes(model: BlockedNetwork, scope: StageScope, stage: str) -> None:
    """Dropout in a frozen block leaves no trace in its tensors, so the modes are looked
    at too.

    Raises:
        TrainingError: a module's train or eval mode is not what the stage set; names
            the blocks.
    """
    wrong = wrong_modes(model, scope)
    if wrong:
        raise TrainingError(
            f"stage '{stage}'",
            found="modules whose train or eval mode was changed behind the stage's back",
            expected="frozen blocks in eval from the first step to the last",
            details=wrong,
        )
