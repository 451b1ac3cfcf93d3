"""A group of tensors goes through training as one tensor does."""

from __future__ import annotations

import torch

from pipeline.tensors import TensorGroup, example_shapes, map_tensors


def group() -> TensorGroup:
    hidden = torch.arange(24.0).reshape(4, 3, 2)
    return TensorGroup(
        {"hidden": hidden, "attention_mask": torch.ones(4, 3, dtype=torch.int64)}
    )


def test_its_length_is_the_number_of_examples() -> None:
    assert len(group()) == 4


def test_examples_are_taken_from_all_tensors_alike() -> None:
    whole = group()
    part = whole[1:3]
    assert len(part) == 2
    assert torch.equal(part.tensors["hidden"], whole.tensors["hidden"][1:3])
    assert part.tensors["attention_mask"].shape == (2, 3)
    chosen = whole[torch.tensor([3, 0])]
    assert torch.equal(chosen.tensors["hidden"], whole.tensors["hidden"][[3, 0]])


def test_a_function_is_applied_to_each_tensor_by_its_name() -> None:
    halves = group().map(lambda tensor: tensor.to(torch.float64))
    assert {name: tensor.dtype for name, tensor in halves.tensors.items()} == {
        "hidden": torch.float64,
        "attention_mask": torch.float64,
    }
    assert group().to("cpu").tensors["attention_mask"].dtype == torch.int64


def test_one_tensor_and_a_group_are_dealt_with_alike() -> None:
    single = map_tensors(torch.Tensor.double, torch.ones(2, 5))
    assert isinstance(single, torch.Tensor)
    assert single.dtype == torch.float64
    assert isinstance(map_tensors(torch.Tensor.double, group()), TensorGroup)
    assert example_shapes(torch.ones(2, 5)) == {"": (5,)}
    assert example_shapes(group()) == {"hidden": (3, 2), "attention_mask": (3,)}
