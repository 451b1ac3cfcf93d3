"""BatchNorm statistics: which of them move, and estimating them anew from the data.

The running statistics are moving averages of what the network was while it trained.
With a small momentum (0.01 in MobileNetV3) a short training leaves half of their
initial values in them, and the network answers as if it had not trained at all. So
where they move, they are computed over data before every validation, as
`torch.optim.swa_utils.update_bn` does (Izmailov et al. 2018, section 3.2).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pipeline.training import sampling
from pipeline.training.plan import TrainingPlan, autocast, to_input

if TYPE_CHECKING:
    import torch

    from pipeline.models.network import BlockedNetwork
    from pipeline.tensors import Batch
    from pipeline.training.sampling import Keys, Rows
    from pipeline.training.stages import StageScope

EXAMPLES = 512  # at most, to compute statistics over
BATCH = 32  # at once; the statistics depend on it in their last bits


def moving_statistics(model: BlockedNetwork) -> list[torch.Tensor]:
    """The buffers that a forward pass changes, with the modules' modes as they are."""
    buffers: list[torch.Tensor] = []
    for module in _norms(model.stock.modules()):
        if module.training:
            buffers += module.buffers(recurse=False)
    return buffers


def sample_batches(keys: Keys, seed: int) -> list[Rows]:
    """Positions of the examples (keys: (N,), in the order of their ids) to compute
    statistics over, in batches.
    """
    chosen = sampling.shuffle(keys, seed, "batchnorm")[:EXAMPLES]
    chosen.sort()
    return sampling.batches(chosen, BATCH)


def estimate_statistics(
    model: BlockedNetwork,
    scope: StageScope,
    batches: Iterable[Batch],
    plan: TrainingPlan,
) -> None:
    """Replaces the statistics of the trained blocks by their mean over some batches of
    network input (n, …).

    Nothing else moves: all other modules are in evaluation meanwhile, and the modules'
    modes are put back.
    """
    import torch

    norms: list[torch.nn.modules.batchnorm._NormBase] = []
    for block in model.blocks:
        if block.name in scope.trained:
            norms += _norms(block.modules())
    with _cumulative(model, norms), torch.no_grad(), autocast(plan):
        for x in batches:
            model.run(to_input(x, plan))


@contextmanager
def _cumulative(
    model: BlockedNetwork, norms: list[torch.nn.modules.batchnorm._NormBase]
) -> Iterator[None]:
    """The statistics reset, and taken as plain means over the batches seen within."""
    modes = [(module, module.training) for module in model.stock.modules()]
    momenta = [norm.momentum for norm in norms]
    model.stock.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.training = True
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, mode in modes:
            module.training = mode


def _norms(
    modules: Iterable[torch.nn.Module],
) -> list[torch.nn.modules.batchnorm._NormBase]:
    """The modules that keep running statistics."""
    from torch.nn.modules.batchnorm import _NormBase

    return [
        module
        for module in modules
        if isinstance(module, _NormBase) and module.track_running_stats
    ]
