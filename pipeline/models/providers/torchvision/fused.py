"""Blocks that will not train, in fewer and faster operations.

In eval a BatchNorm is a scaling and a shift by constants, so it is folded into the
convolution before it (Jacob et al. 2018, "Quantization and Training of Neural Networks
for Efficient Integer-Arithmetic-Only Inference", section 3.2), and on a CPU the
activation behind is applied by the convolution while it writes. The function is the
same but for the last bits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from pipeline.models.providers.torchvision.forward_steps import Call

# Of the largest output; a GPU that multiplies with 10 bits of significand is 0.001 off.
TOLERANCE = 0.01


class Activation(NamedTuple):
    """An activation as oneDNN calls it."""

    name: str
    parameters: list[float]


_ACTIVATION_MODULES: tuple[tuple[type[nn.Module], str], ...] = (
    (nn.ReLU, "relu"),
    (nn.SiLU, "swish"),
    (nn.Hardswish, "hardswish"),
)
_RELU_FUNCTIONS = {torch.relu, torch.relu_, nn.functional.relu}


def fuse_calls(
    calls: Sequence[Call], modules: Sequence[nn.Module], *, activations: bool
) -> Call | None:
    """The same calls as one with fewer operations, from the weights of this moment;
    None where nothing can be fused.

    Args:
        modules: what the calls run, in eval.
        activations: have convolutions apply the activation behind them; for fp32 on a
            CPU. NaN becomes a number there.
    """
    chain = _Chain(calls, modules)
    try:
        graph = fx.Tracer().trace(chain)
    except (fx.proxy.TraceError, TypeError, NameError, AttributeError, RuntimeError):
        return None  # what they do depends on what runs through them
    activations = activations and _has_joined_convolutions()
    changed = False
    for node, convolution in _find_convolutions(chain, graph):
        if _fuse_convolution(chain, node, convolution, activations=activations):
            changed = True
    if not changed:
        return None
    return fx.GraphModule(chain, graph)


def is_equivalent(call: Call, x: Tensor, expected: Tensor) -> bool:
    """Whether a call gives what is expected of it, but for rounding."""
    try:
        output = call(x)
    except (RuntimeError, TypeError, ValueError):
        return False
    if output.shape != expected.shape:
        return False
    difference = (output - expected).abs().max()
    return bool(difference <= TOLERANCE * expected.abs().max())


class _Chain(nn.Module):
    """Calls one after another, in a form that can be traced."""

    def __init__(self, calls: Sequence[Call], modules: Sequence[nn.Module]) -> None:
        super().__init__()
        # Only what lies below it can be traced.
        self.modules_run = nn.ModuleList(modules)
        self._calls = tuple(calls)

    def forward(self, x: Tensor) -> Tensor:
        for call in self._calls:
            x = call(x)
        return x


def _has_joined_convolutions() -> bool:
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and hasattr(torch.ops.mkldnn, "_convolution_pointwise")


def _find_convolutions(
    chain: _Chain, graph: fx.Graph
) -> list[tuple[fx.Node, nn.Conv2d]]:
    """The convolutions that can be replaced: each called once, with zeros as padding."""
    convolutions = []
    for node in graph.nodes:
        module = _find_module(chain, node)
        if type(module) is nn.Conv2d and isinstance(module.padding, tuple):
            convolutions.append((node, module))
    uses = Counter(node.target for node, _ in convolutions)
    replaceable = []
    for node, convolution in convolutions:
        if uses[node.target] == 1 and convolution.padding_mode == "zeros":
            replaceable.append((node, convolution))
    return replaceable


def _fuse_convolution(
    chain: _Chain, node: fx.Node, convolution: nn.Conv2d, *, activations: bool
) -> bool:
    """Has a convolution do what a norm and an activation behind it did; the network
    keeps its own modules.
    """
    weight: Tensor = convolution.weight.detach()
    bias: Tensor | None = convolution.bias
    absorbed: list[fx.Node] = []
    follower = _find_only_user(node)
    norm = _find_module(chain, follower)
    if follower is not None and isinstance(norm, _BatchNorm) and not norm.training:
        mean = norm.running_mean
        variance = norm.running_var
        # Such a norm goes by the batch even in eval.
        if mean is None or variance is None:
            return False
        weight, bias = fuse_conv_bn_weights(
            weight, bias, mean, variance, norm.eps, norm.weight, norm.bias
        )
        absorbed.append(follower)
        follower = _find_only_user(follower)
    activation = None
    if follower is not None and activations:
        activation = _find_activation(chain, follower)
        if activation is not None:
            absorbed.append(follower)
    if not absorbed:
        return False
    replacement = _FusedConvolution(convolution, weight, bias, activation)
    _replace_convolution(chain, node, replacement, absorbed)
    return True


def _replace_convolution(
    chain: _Chain,
    node: fx.Node,
    replacement: _FusedConvolution,
    absorbed: Sequence[fx.Node],
) -> None:
    name = f"fused_{len(chain._modules)}"
    chain.add_module(name, replacement)
    node.target = name
    absorbed[-1].replace_all_uses_with(node)
    for follower in reversed(absorbed):
        node.graph.erase_node(follower)


def _find_only_user(node: fx.Node) -> fx.Node | None:
    if len(node.users) != 1:
        return None
    return next(iter(node.users))


def _find_module(chain: _Chain, node: fx.Node | None) -> nn.Module | None:
    if node is None or node.op != "call_module":
        return None
    return chain.get_submodule(str(node.target))


def _find_activation(chain: _Chain, node: fx.Node) -> Activation | None:
    """What a node does to the convolution's output; None where it is no activation that
    can be fused.
    """
    module = _find_module(chain, node)
    if isinstance(module, nn.Hardtanh):  # ReLU6 is one
        return Activation("hardtanh", [module.min_val, module.max_val])
    for kind, name in _ACTIVATION_MODULES:
        if isinstance(module, kind):
            return Activation(name, [])
    if node.op == "call_function" and node.target in _RELU_FUNCTIONS:
        return Activation("relu", [])
    return None


class _FusedConvolution(nn.Module):
    """A convolution by other weights, that applies an activation while it writes.

    The latter is the operation of PyTorch's own that its compiler fuses the two into.
    """

    def __init__(
        self,
        like: nn.Conv2d,
        weight: Tensor,
        bias: Tensor | None,
        activation: Activation | None,
    ) -> None:
        super().__init__()
        self.weight = weight.detach()
        self.bias = None if bias is None else bias.detach()
        self._stride = like.stride
        self._padding = like.padding
        self._dilation = like.dilation
        self._groups = like.groups
        self._activation = activation

    def forward(self, x: Tensor) -> Tensor:
        if self._activation is None:
            return nn.functional.conv2d(
                x,
                self.weight,
                self.bias,
                self._stride,
                self._padding,
                self._dilation,
                self._groups,
            )
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x,
            self.weight,
            self.bias,
            self._padding,
            self._stride,
            self._dilation,
            self._groups,
            self._activation.name,
            self._activation.parameters,
            "",
        )
        return result
