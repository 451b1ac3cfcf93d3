"""Blocks that will not train, in fewer and faster operations.

In eval a BatchNorm is a scaling and a shift by constants, so it is folded into the convolution before it (Jacob et al.
2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", section 3.2), and
on a CPU the activation behind is applied by the convolution while it writes. The function is the same but for the
last bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

TOLERANCE = 0.01  # of the largest output; a GPU that multiplies with 10 bits of significand is 0.001 off

Call = Callable[[Tensor], Tensor]


def fused(calls: Sequence[Call], modules: Sequence[nn.Module], *, activations: bool) -> Call | None:
    """The same calls as one with fewer operations, from the weights of this moment; None where nothing can be fused.

    Args:
        modules: what the calls run, in eval.
        activations: have convolutions apply the activation behind them; for fp32 on a CPU. NaN becomes a number there.
    """
    chain = _Chain(calls, modules)
    try:
        graph = fx.Tracer().trace(chain)
    except (fx.proxy.TraceError, TypeError, NameError, AttributeError, RuntimeError):
        return None  # what they do depends on what runs through them
    activations = activations and _has_joined_convolutions()
    found = [(node, _module(chain, node)) for node in graph.nodes]
    convolutions = [(node, m) for node, m in found if type(m) is nn.Conv2d and isinstance(m.padding, tuple)]
    targets = [node.target for node, _ in convolutions]
    once = [(node, m) for node, m in convolutions if targets.count(node.target) == 1 and m.padding_mode == "zeros"]
    changed = [_fuse(chain, node, convolution, activations=activations) for node, convolution in once]
    return fx.GraphModule(chain, graph) if any(changed) else None


def agree(call: Call, x: Tensor, expected: Tensor) -> bool:
    """Whether a call gives what is expected of it, but for rounding."""
    try:
        found = call(x)
    except (RuntimeError, TypeError, ValueError):
        return False
    close = found.shape == expected.shape and (found - expected).abs().max() <= TOLERANCE * expected.abs().max()
    return bool(close)


class _Chain(nn.Module):
    """Calls one after another, in a form that can be traced."""

    def __init__(self, calls: Sequence[Call], modules: Sequence[nn.Module]) -> None:
        super().__init__()
        self.modules_run = nn.ModuleList(modules)  # only what lies below it can be traced
        self._calls = tuple(calls)

    def forward(self, x: Tensor) -> Tensor:
        for call in self._calls:
            x = call(x)
        return x


def _has_joined_convolutions() -> bool:
    there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return there and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


def _fuse(chain: _Chain, node: fx.Node, convolution: nn.Conv2d, *, activations: bool) -> bool:
    """Has a convolution do what a norm and an activation behind it did; the network keeps its own modules."""
    weight, bias = convolution.weight.detach(), convolution.bias
    follower, activation, taken = _only_user(node), None, []
    norm = _module(chain, follower)
    if follower is not None and isinstance(norm, _BatchNorm) and not norm.training:
        mean, variance = norm.running_mean, norm.running_var
        if mean is None or variance is None:  # such a norm goes by the batch even in eval
            return False
        weight, bias = fuse_conv_bn_weights(weight, bias, mean, variance, norm.eps, norm.weight, norm.bias)  # fmt: skip
        taken.append(follower)
        follower = _only_user(follower)
    if follower is not None and activations:
        activation = _activation(chain, follower)
        taken += [follower] if activation is not None else []
    if not taken:
        return False
    name = f"fused_{len(chain._modules)}"
    chain.add_module(name, _Convolution(convolution, weight, bias, activation))
    node.target = name
    taken[-1].replace_all_uses_with(node)
    for follower in reversed(taken):
        node.graph.erase_node(follower)
    return True


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _module(chain: _Chain, node: fx.Node | None) -> nn.Module | None:
    return chain.get_submodule(str(node.target)) if node is not None and node.op == "call_module" else None


_RELU = {torch.relu, torch.relu_, nn.functional.relu}


def _activation(chain: _Chain, node: fx.Node) -> tuple[str, list[float]] | None:
    """How oneDNN calls what a node does to the convolution's output: name and parameters."""
    module = _module(chain, node)
    if isinstance(module, nn.Hardtanh):  # ReLU6 is one
        return "hardtanh", [module.min_val, module.max_val]
    for kind, name in ((nn.ReLU, "relu"), (nn.SiLU, "swish"), (nn.Hardswish, "hardswish")):
        if isinstance(module, kind):
            return name, []
    return ("relu", []) if node.op == "call_function" and node.target in _RELU else None


class _Convolution(nn.Module):
    """A convolution by other weights, that applies an activation while it writes.

    The latter is the operation of PyTorch's own that its compiler fuses the two into.
    """

    def __init__(
        self, like: nn.Conv2d, weight: Tensor, bias: Tensor | None, activation: tuple[str, list[float]] | None
    ) -> None:
        super().__init__()
        self.weight, self.bias = weight.detach(), None if bias is None else bias.detach()
        self._stride, self._padding, self._dilation, self._groups = (
            like.stride,
            like.padding,
            like.dilation,
            like.groups,
        )
        self._activation = activation

    def forward(self, x: Tensor) -> Tensor:
        if self._activation is None:
            return nn.functional.conv2d(
                x, self.weight, self.bias, self._stride, self._padding, self._dilation, self._groups
            )
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, self._padding, self._stride, self._dilation, self._groups, *self._activation, ""
        )
        return result
