"""Blocks that will not train, in fewer and faster operations.

In eval a BatchNorm is a scaling and a shift by constants, so it is folded into the convolution before it (Jacob et al.
2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", section 3.2), and
on a CPU the activation behind is applied by the convolution while it writes. The function is the same but for the
last bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

TOLERANCE = 0.01  # of the largest output; a GPU that multiplies with 10 bits of significand is 0.001 off

Call = Callable[[Tensor], Tensor]


def fused(stock: nn.Module, calls: Sequence[Call], *, activations: bool) -> list[Call]:
    """The same calls in fewer operations, from the weights of this moment; as they are where there is nothing to fuse.

    Args:
        stock: the network whose modules the calls run, in eval.
        activations: have convolutions apply the activation behind them; for fp32 on a CPU.
    """
    graph = _traced(stock, calls)
    if graph is None:
        return list(calls)
    changed = _fold_norms(graph)
    if activations and hasattr(torch.ops.mkldnn, "_convolution_pointwise") and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        changed |= _join_activations(graph)
    if not changed:
        return list(calls)
    graph.graph.lint()
    graph.recompile()
    return [graph]


def run(calls: Sequence[Call], x: Tensor) -> Tensor:
    """Calls one after another."""
    for call in calls:
        x = call(x)
    return x


def agree(calls: Sequence[Call], x: Tensor, expected: Tensor) -> bool:
    """Whether the calls give what is expected of them, but for rounding."""
    try:
        found = run(calls, x)
    except (RuntimeError, TypeError, ValueError):
        return False
    close = found.shape == expected.shape and (found - expected).abs().max() <= TOLERANCE * expected.abs().max()
    return bool(close)


class _Chain(nn.Module):
    """Calls one after another, in a form that can be traced: the modules they run must be below the one traced."""

    def __init__(self, stock: nn.Module, calls: Sequence[Call]) -> None:
        super().__init__()
        self.stock = stock
        self._calls = tuple(calls)

    def forward(self, x: Tensor) -> Tensor:
        return run(self._calls, x)


def _traced(stock: nn.Module, calls: Sequence[Call]) -> fx.GraphModule | None:
    """The operations of the calls as a graph; None where they depend on what runs through them."""
    chain = _Chain(stock, calls)
    try:
        return fx.GraphModule(chain, fx.Tracer().trace(chain))
    except (fx.proxy.TraceError, TypeError, NameError, AttributeError, RuntimeError):
        return None


def _fold_norms(graph: fx.GraphModule) -> bool:
    changed = False
    for node, convolution in _convolutions(graph):
        follower = _only_user(node)
        norm = _module(graph, follower)
        if follower is None or not isinstance(norm, _BatchNorm) or norm.training or norm.running_mean is None:
            continue
        with torch.no_grad():
            _replace(graph, node, follower, fuse_conv_bn_eval(convolution, norm))
        changed = True
    return changed


def _join_activations(graph: fx.GraphModule) -> bool:
    changed = False
    for node, convolution in _convolutions(graph):
        follower = _only_user(node)
        how = _activation(graph, follower)
        if follower is None or how is None or not isinstance(convolution.padding, tuple):
            continue
        _replace(graph, node, follower, _ConvolutionAndActivation(convolution, *how))
        changed = True
    return changed


def _convolutions(graph: fx.GraphModule) -> list[tuple[fx.Node, nn.Conv2d]]:
    """Convolutions that run once and see zeros beyond the edge."""
    found = [(node, _module(graph, node)) for node in graph.graph.nodes]
    convolutions = [(node, m) for node, m in found if type(m) is nn.Conv2d and m.padding_mode == "zeros"]
    targets = [node.target for node, _ in convolutions]
    return [(node, m) for node, m in convolutions if targets.count(node.target) == 1]


def _only_user(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _module(graph: fx.GraphModule, node: fx.Node | None) -> nn.Module | None:
    return graph.get_submodule(str(node.target)) if node is not None and node.op == "call_module" else None


_RELU = {torch.relu, torch.relu_, nn.functional.relu}


def _activation(graph: fx.GraphModule, node: fx.Node | None) -> tuple[str, list[float]] | None:
    """How oneDNN calls what a node does to the convolution's output: name and parameters."""
    module = _module(graph, node)
    if isinstance(module, nn.Hardtanh):  # ReLU6 is one
        return "hardtanh", [module.min_val, module.max_val]
    for kind, name in ((nn.ReLU, "relu"), (nn.SiLU, "swish"), (nn.Hardswish, "hardswish")):
        if isinstance(module, kind):
            return name, []
    return ("relu", []) if node is not None and node.op == "call_function" and node.target in _RELU else None


class _ConvolutionAndActivation(nn.Module):
    """A convolution that applies an activation while it writes: PyTorch's own operation for what its compiler fuses."""

    def __init__(self, convolution: nn.Conv2d, activation: str, parameters: list[float]) -> None:
        super().__init__()
        self.weight = convolution.weight.detach()
        self.bias = None if convolution.bias is None else convolution.bias.detach()
        self._shape: tuple[Any, ...] = (
            list(convolution.padding), list(convolution.stride), list(convolution.dilation), convolution.groups
        )  # fmt: skip
        self._activation: tuple[Any, ...] = (activation, parameters, "")

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x, self.weight, self.bias, *self._shape, *self._activation
        )
        return result


def _replace(graph: fx.GraphModule, node: fx.Node, follower: fx.Node, module: nn.Module) -> None:
    """Has `module` do what a node and the one behind it did; the network keeps its own modules."""
    name = f"fused_{len(graph._modules)}"
    graph.add_submodule(name, module)
    node.target = name
    follower.replace_all_uses_with(node)
    graph.graph.erase_node(follower)
