"""A stock transformer with a linear head, run block by block.

The blocks are `word_embeddings` (the table of word vectors), `embeddings` (everything
else before the first layer, and what feeds every layer), one a layer, by its path in
the stock network, and `head`. Where the layers cannot be told apart there are three:
`word_embeddings`, `body` and `head`.

Any run of blocks is one call of the stock network, in which the layers outside it hand
on what they are given: so masks and positions stay the library's own. The last block
before the head ends with the network's last norm and with the pooling of its token
vectors into one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.models.block_patterns import HEAD
from pipeline.models.network import Block
from pipeline.models.providers.transformers.architectures import (
    Architecture,
    Pooling,
    layer_list,
)
from pipeline.tensors import Batch, TensorGroup, single_tensor

WORDS, EMBEDDINGS, BODY = "word_embeddings", "embeddings", "body"
FIRST_LAYER = 2  # blocks before it: the word vectors and the other embeddings
BACKBONE = "backbone"


class PassThrough(nn.Module):
    """Stands in for a layer that is not run: it hands on its input.

    Args:
        returns_tuple: as the layer does.
    """

    def __init__(self, returns_tuple: bool) -> None:
        super().__init__()
        self.returns_tuple = returns_tuple

    def forward(self, hidden_states: Tensor, *arguments: Any, **named: Any) -> Any:
        return (hidden_states, None) if self.returns_tuple else hidden_states


class StockWithHead(nn.Module):
    """The stock network and the linear layer behind it: what is trained and saved.

    Args:
        backbone: the stock network.
        width: numbers in a token's vector.
    """

    def __init__(self, backbone: nn.Module, width: int, classes: int) -> None:
        super().__init__()
        self.backbone: Any = backbone
        self.head = nn.Linear(width, classes)


class TransformerNetwork:
    """See the module's docstring; a `pipeline.models.network.BlockedNetwork`.

    Its input is a group: `input_ids` and `attention_mask` (N, L), int64, and
    `token_type_ids` where the network has them. Between blocks travel `hidden` (N, L,
    D) and `attention_mask`; into the head, vectors (N, D).

    Args:
        stock: on any device.
        architecture: what is known of its kind.
        pooling: over the tokens that are not padding: their mean, the first, or the
            last.
        subject: the backbone's name, for errors.
    """

    def __init__(
        self,
        stock: StockWithHead,
        architecture: Architecture,
        pooling: Pooling,
        subject: str,
    ) -> None:
        self._backbone: Any = stock.backbone
        self.stock: nn.Module = stock
        self.stock_kwargs: dict[str, Any] = {}
        self.architecture = str(self._backbone.config.model_type)
        self.classes = stock.head.out_features
        self.pooling = pooling
        self._with_head = stock
        self._kind = architecture
        # Layers are exchanged while a part of them runs.
        self._running = threading.RLock()
        self._layers = nn.ModuleList()
        self._path = ""
        if architecture.divisible:
            layers = int(self._backbone.config.num_hidden_layers)
            self._path, self._layers = layer_list(self._backbone, layers, subject)
        self.blocks = self._make_blocks()

    @property
    def names(self) -> list[str]:
        """The blocks' names from input to output."""
        return [block.name for block in self.blocks]

    def _make_blocks(self) -> list[Block]:
        """The blocks in order: together they own every parameter once."""
        words_path = self._words_path()
        layer_paths = [f"{self._path}.{number}" for number in range(len(self._layers))]
        behind = self._modules_behind()
        others = self._other_modules({words_path, *layer_paths, *behind})
        blocks = [Block(WORDS, self.stock, [f"{BACKBONE}.{words_path}"])]
        if not layer_paths:
            blocks.append(
                Block(BODY, self.stock, [f"{BACKBONE}.{path}" for path in others])
            )
        else:
            blocks.append(
                Block(EMBEDDINGS, self.stock, [f"{BACKBONE}.{path}" for path in others])
            )
            for path in layer_paths:
                blocks.append(Block(path, self.stock, [f"{BACKBONE}.{path}"]))
            blocks[-1].owns += [f"{BACKBONE}.{path}" for path in behind]
        blocks.append(Block(HEAD, self.stock, [HEAD]))
        return blocks

    def _words_path(self) -> str:
        words = self._backbone.get_input_embeddings()
        for path, module in self._backbone.named_modules():
            if module is words:
                return str(path)
        raise AssertionError("the word embeddings lie outside the network")

    def _modules_behind(self) -> list[str]:
        """Norms behind the last layer, which belong to its block: the modules that
        follow the list where it lies.
        """
        if not self._path:
            return []
        parent, _, own = self._path.rpartition(".")
        siblings = list(self._backbone.get_submodule(parent).named_children())
        names = [name for name, _ in siblings]
        prefix = f"{parent}." if parent else ""
        behind = []
        for name, module in siblings[names.index(own) + 1 :]:
            is_norm = "norm" in name.lower() or name == "ln_f"
            if is_norm and any(True for _ in module.parameters()):
                behind.append(f"{prefix}{name}")
        return behind

    def _other_modules(self, taken: set[str]) -> list[str]:
        """Paths of the largest modules and of single parameters that hold nothing
        taken, in the network's order.
        """
        modules: list[str] = []
        words = self._backbone.get_input_embeddings()

        def visit(module: nn.Module, prefix: str) -> None:
            for name, _ in module.named_parameters(recurse=False):
                modules.append(prefix + name)
            for name, child in module.named_children():
                path = prefix + name
                if path in taken or getattr(child, "weight", None) is words.weight:
                    continue
                holds_words = any(
                    parameter is words.weight for parameter in child.parameters()
                )
                if holds_words or any(other.startswith(path + ".") for other in taken):
                    visit(child, path + ".")
                else:
                    modules.append(path)

        visit(self._backbone, "")
        return modules

    def forward(self, x: Batch) -> Batch:
        """The logits (N, classes) of a network's input."""
        return self.run(x)

    def run(self, x: Batch, start: int = 0, stop: int | None = None) -> Batch:
        """Applies blocks[start:stop]; see `BlockedNetwork.run`."""
        first, last, _ = slice(start, stop).indices(len(self.blocks))
        head = len(self.blocks) - 1
        if first < min(last, head):
            if not isinstance(x, TensorGroup):
                raise TypeError(
                    "the input of a transformer's blocks is a group of tensors"
                )
            x = self._run_backbone(x, first, min(last, head))
        if first <= head < last:
            x = self._with_head.head(single_tensor(x))
        return x

    def outputs(
        self, x: Batch, start: int = 0
    ) -> tuple[Tensor, list[tuple[float, Tensor]]]:
        """The logits (N, classes); there are no auxiliary classifiers."""
        return single_tensor(self.run(x, start)), []

    def fuse(
        self, x: Batch, stops: Sequence[int], *, activations: bool = False
    ) -> None:
        """Nothing is to be fused."""

    def unfuse(self) -> None:
        """Nothing was fused."""

    def compile_blocks(self) -> None:
        """Compiles the layers, which then share one graph for all shapes; the whole
        network where it has none apart.

        What exchanges layers and their inputs stays outside of what is compiled: it is
        another one at each call.
        """
        for module in self._layers or [self._backbone]:
            module.forward = torch.compile(module.forward, dynamic=True)

    def _run_backbone(self, x: TensorGroup, first: int, last: int) -> Batch:
        """Applies blocks[first:last] of those before the head."""
        mask = x.tensors["attention_mask"]
        if first == 0:
            x = self._embed(x)
            if last == 1:
                return x
        hidden = x.tensors["hidden"]
        if not self._layers:
            return self._pooled(self._call_stock(x, hidden), mask)
        skipped = max(first - FIRST_LAYER, 0)
        end = max(last - FIRST_LAYER, 0)
        with self._running, ExitStack() as stack:
            stack.enter_context(self._exchanged(skipped, end))
            given = hidden
            if first >= FIRST_LAYER:
                stack.enter_context(_replaced_input(self._layers[skipped], hidden))
                given = self._placeholder(hidden)
            kept: list[Tensor] = []
            if end == 0:
                stack.enter_context(_kept_input(self._layers[0], kept))
            elif end < len(self._layers):
                stack.enter_context(_kept_output(self._layers[end - 1], kept))
            output = self._call_stock(x, given)
        if kept:
            return TensorGroup({"hidden": kept[0], "attention_mask": mask})
        return self._pooled(output, mask)

    def _embed(self, x: TensorGroup) -> TensorGroup:
        """The words' vectors instead of their numbers."""
        embeddings = self._backbone.get_input_embeddings()
        tensors = {"hidden": embeddings(x.tensors["input_ids"])}
        for name, tensor in x.tensors.items():
            if name != "input_ids":
                tensors[name] = tensor
        return TensorGroup(tensors)

    def _placeholder(self, hidden: Tensor) -> Tensor:
        """Word vectors for embeddings that are computed for nothing."""
        embeddings = self._backbone.get_input_embeddings()
        width = embeddings.weight.shape[1]
        count, length = hidden.shape[:2]
        return hidden.new_zeros((count, length, width))

    def _call_stock(self, x: TensorGroup, vectors: Tensor) -> Tensor:
        arguments: dict[str, Any] = {
            "inputs_embeds": vectors,
            "attention_mask": x.tensors["attention_mask"],
        }
        if "token_type_ids" in x.tensors:
            arguments["token_type_ids"] = x.tensors["token_type_ids"]
        if hasattr(self._backbone.config, "use_cache"):
            arguments["use_cache"] = False
        output: Tensor = self._backbone(**arguments).last_hidden_state
        return output

    def _pooled(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """Vectors (N, L, D) as (N, D)."""
        if self.pooling == "cls":
            return hidden[:, 0]
        if self.pooling == "last":
            last = (mask.sum(dim=1) - 1).clamp_min(0)
            rows = torch.arange(len(hidden), device=hidden.device)
            return hidden[rows, last]
        weights = mask.unsqueeze(-1).to(hidden.dtype)
        total = (hidden * weights).sum(dim=1)
        count = weights.sum(dim=1).clamp_min(1)
        return total / count

    @contextmanager
    def _exchanged(self, skipped: int, end: int) -> Iterator[None]:
        """Layers before `skipped` and from `end` on hand on their input meanwhile."""
        own = list(self._layers)
        try:
            for number, layer in enumerate(own):
                if number < skipped or number >= end:
                    stand_in = PassThrough(self._kind.returns_tuple)
                    if hasattr(layer, "attention_type"):
                        stand_in.attention_type = layer.attention_type
                    self._layers[number] = stand_in
            yield
        finally:
            for number, layer in enumerate(own):
                self._layers[number] = layer


@contextmanager
def _replaced_input(layer: nn.Module, hidden: Tensor) -> Iterator[None]:
    """The layer is given these hidden states instead."""

    def replace(
        module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> Any:
        if arguments:
            return (hidden, *arguments[1:]), named
        return arguments, {**named, "hidden_states": hidden}

    handle = layer.register_forward_pre_hook(replace, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _kept_input(layer: nn.Module, kept: list[Tensor]) -> Iterator[None]:
    """Keeps the hidden states that the layer is given."""

    def keep(
        module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]
    ) -> None:
        if arguments:
            kept.append(arguments[0])
        else:
            kept.append(named["hidden_states"])

    handle = layer.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _kept_output(layer: nn.Module, kept: list[Tensor]) -> Iterator[None]:
    """Keeps the hidden states that the layer gives."""

    def keep(module: nn.Module, arguments: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        kept.append(hidden)

    handle = layer.register_forward_hook(keep)
    try:
        yield
    finally:
        handle.remove()
