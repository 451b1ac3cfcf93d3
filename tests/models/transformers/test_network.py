"""Transformers in blocks: every parameter once, and the blocks in order are the stock
network.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import pytest
import torch

from pipeline.models.providers.transformers import architectures, builder
from pipeline.models.providers.transformers.network import TransformerNetwork
from pipeline.tensors import Batch, TensorGroup, single_tensor
from threads import threads
from transformer_families import FAMILIES, WHOLE, config_of

pytestmark = pytest.mark.slow

DIVISIBLE = [family for family in FAMILIES if family not in WHOLE]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with threads(1):
        yield


def network(family: str, seed: int = 0) -> TransformerNetwork:
    config = config_of(family)
    pooling = architectures.find(family, family).pooling
    return builder.with_head(
        builder.build_backbone(config, seed=seed, subject=family),
        config,
        3,
        pooling,
        seed,
        family,
    )


def tokens(rows: int = 4, length: int = 12) -> TensorGroup:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 60, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, 7:] = 0
    mask[2, 3:] = 0
    ids[mask == 0] = 0
    return TensorGroup({"input_ids": ids, "attention_mask": mask})


def stock_logits(net: TransformerNetwork, x: TensorGroup) -> torch.Tensor:
    """The library's own forward, pooled, and the head."""
    ids, mask = x.tensors["input_ids"], x.tensors["attention_mask"]
    hidden = net.stock.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
    if net.pooling == "last":
        vectors = hidden[torch.arange(len(ids)), mask.sum(1) - 1]
    else:
        vectors = torch.stack(
            [
                row[: int(count)].mean(0)
                for row, count in zip(hidden, mask.sum(1), strict=True)
            ]
        )
    return net.stock.head(vectors)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_blocks_own_every_parameter_once(family: str) -> None:
    net = network(family)
    owned = [name for block in net.blocks for name, _ in block.named_parameters()]
    assert sorted(owned) == sorted(name for name, _ in net.stock.named_parameters())
    assert net.names[0] == "word_embeddings"
    assert net.names[-1] == "head"
    assert len(net.names) == (3 if family in WHOLE else 6)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_network_in_blocks_is_the_stock_network(family: str) -> None:
    net, x = network(family), tokens()
    with torch.inference_mode():
        expected = stock_logits(net, x)
        assert torch.allclose(single_tensor(net.run(x)), expected, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_any_run_of_blocks_goes_on_where_another_ended_to_the_bit(family: str) -> None:
    net, x = network(family), tokens()
    with torch.inference_mode():
        whole = single_tensor(net.run(x))
        for boundary in range(1, len(net.blocks)):
            middle = net.run(x, 0, boundary)
            assert torch.equal(single_tensor(net.run(middle, boundary)), whole), (
                net.names[boundary]
            )
        one_by_one: Batch = x
        for number in range(len(net.blocks)):
            one_by_one = net.run(one_by_one, number, number + 1)
        assert torch.equal(single_tensor(one_by_one), whole)


@pytest.mark.parametrize("family", DIVISIBLE)
def test_an_answer_does_not_depend_on_its_neighbours(family: str) -> None:
    net, x = network(family), tokens()
    with torch.inference_mode():
        together = single_tensor(net.run(x))
        for row in range(len(x)):
            assert torch.allclose(
                single_tensor(net.run(x[row : row + 1])),
                together[row : row + 1],
                atol=1e-6,
            )


@pytest.mark.parametrize("family", FAMILIES)
def test_in_training_the_blocks_drop_what_the_stock_network_drops(family: str) -> None:
    """Modules of no block stay in evaluation, as the engine has it: none of them may
    matter.
    """
    net, x = network(family), tokens()
    net.stock.train()
    torch.manual_seed(3)
    expected = stock_logits(net, x)
    net.stock.eval()
    assert not torch.allclose(stock_logits(net, x), expected, atol=1e-4)
    for block in net.blocks:
        block.train()
    torch.manual_seed(3)
    assert torch.allclose(single_tensor(net.run(x)), expected, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_frozen_block_does_not_move_and_every_trained_one_does(family: str) -> None:
    for frozen in ("word_embeddings", "embeddings"):
        net, x = network(family), tokens()
        if frozen not in net.names:
            continue
        for block in net.blocks:
            block.requires_grad_(block.name != frozen)
        single_tensor(net.run(x)).square().sum().backward()
        for block in net.blocks:
            gradients = [parameter.grad for parameter in block.parameters()]
            reached = any(
                gradient is not None and bool(gradient.any()) for gradient in gradients
            )
            holds_any = bool(gradients)
            assert reached == (holds_any and block.name != frozen), block.name


@pytest.mark.slow
@pytest.mark.parametrize("family", ["bert", "gpt2", "deberta-v2", "albert"])
def test_compiled_it_answers_the_same_and_is_compiled_once(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._dynamo import utils

    monkeypatch.setattr(
        torch, "compile", functools.partial(torch.compile, backend="eager")
    )
    net = network(family)
    inputs = [tokens(4, 12), tokens(5, 20), tokens(3, 31)]
    middle = 3 if family in DIVISIBLE else 1
    with torch.inference_mode():
        expected = [single_tensor(net.run(x)) for x in inputs]
        net.compile_blocks()
        torch._dynamo.reset()
        utils.counters.clear()
        for x, logits in zip(inputs, expected, strict=True):
            assert torch.allclose(single_tensor(net.run(x)), logits, atol=1e-5)
            assert torch.allclose(
                single_tensor(net.run(net.run(x, 0, middle), middle)), logits, atol=1e-5
            )
    assert utils.counters["stats"]["unique_graphs"] <= 2


def test_no_two_blocks_share_a_module() -> None:
    for family in FAMILIES:
        owned = [
            id(module) for block in network(family).blocks for module in block.modules()
        ]
        assert len(owned) == len(set(owned)), family


def test_a_stage_trains_what_it_says_and_the_rest_stays() -> None:
    net, x = network("bert"), tokens()
    for block in net.blocks:
        block.requires_grad_(block.name in ("encoder.layer.2", "head"))
    prefix = net.run(x, 0, 4)
    single_tensor(net.run(prefix, 4)).sum().backward()
    moved = {
        name
        for name, parameter in net.stock.named_parameters()
        if parameter.grad is not None
    }
    assert moved
    assert all(
        name.startswith(("backbone.encoder.layer.2.", "head.")) for name in moved
    )
    assert isinstance(net.stock.backbone.encoder.layer[0], torch.nn.Module)
    # The stand-ins are gone.
    assert len(list(net.stock.backbone.encoder.layer[0].parameters())) > 0


def test_random_weights_follow_from_the_seed_and_leave_the_global_state() -> None:
    before = torch.random.get_rng_state()
    one, same, other = network("bert", 1), network("bert", 1), network("bert", 2)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(
        torch.equal(a, b)
        for a, b in zip(one.stock.parameters(), same.stock.parameters(), strict=True)
    )
    assert not torch.equal(
        next(iter(one.stock.parameters())), next(iter(other.stock.parameters()))
    )
