"""The precision of every real checkpoint: exact where nothing is merged, and as by hand."""

import copy
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from sttm import attach

from .families import BY_NAME, Family, Inputs, every_family, shared_model, shared_out
from .layouts import Row, Text, Video
from .methods import KeepAll, PairMerge
from .oracle import by_hand
from .running import greedy

pytestmark = pytest.mark.usefixtures("no_gradients")

ROW: Row = (Text(4), Video(4), Text(5, seed=1))
SECOND: Row = (Text(2, seed=2), Video(4, seed=3), Text(3, seed=4))
# How far logits may be apart, relative to their size in the root mean square, if matrices are
# multiplied in other shapes. Single ones differ by more, and by how much depends on the kernels.
# In bfloat16 that is as much as a small mistake changes; float16 tells mistakes apart.
TOLERANCES = {torch.bfloat16: 0.08, torch.float16: 0.01}
every_dtype = pytest.mark.parametrize("dtype", TOLERANCES, ids=str)


@cache
def model_in(name: str, dtype: torch.dtype) -> Any:
    return copy.deepcopy(shared_model(name)).to(dtype)


def inputs_in(family: Family, dtype: torch.dtype, *rows: Row) -> Inputs:
    inputs = family.make_inputs(*rows)
    tensors = {n: v.to(dtype) if v.is_floating_point() else v for n, v in inputs.tensors.items()}
    return replace(inputs, tensors=tensors)


@every_dtype
@every_family
def test_keeping_all_is_bit_equal(family: Family, dtype: torch.dtype) -> None:
    model, inputs = model_in(family.name, dtype), inputs_in(family, dtype, ROW, SECOND)
    wanted = greedy(model, inputs, 4)
    with attach(model, KeepAll(), layer=1):
        got = greedy(model, inputs, 4)
    assert got.logits.dtype == torch.float32 or got.logits.dtype == dtype
    assert torch.equal(got.logits, wanted.logits)


@every_dtype
@shared_out("positions", ["survived", "reassigned", "merged"])
def test_a_reduction_is_that_by_hand(family: Family, dtype: torch.dtype, positions: str) -> None:
    model, inputs = model_in(family.name, dtype), inputs_in(family, dtype, ROW)
    with attach(model, PairMerge(), layer=1, positions=positions):
        prompt = model(**inputs.tensors).logits[0]
        answer = greedy(model, inputs, 3)
    hand = by_hand(model, inputs.followed_by(answer.tokens[:, :-1]), PairMerge(), 1, positions)
    assert prompt.dtype == dtype
    left = hand.kept[hand.kept < inputs.length]
    assert apart(prompt[left], hand.logits[: len(left)]) < TOLERANCES[dtype]
    assert apart(answer.logits[0], hand.tail(3)) < TOLERANCES[dtype]


def apart(got: torch.Tensor, wanted: torch.Tensor) -> float:
    """Return the root mean square of the difference, relative to that of what is wanted."""
    return float((got.double() - wanted.double()).norm() / wanted.double().norm())


def test_the_tolerance_tells_policies_and_layers_apart() -> None:
    """What float16 is allowed above is less than what the smallest mistake changes."""
    dtype = torch.float16
    for name in BY_NAME:
        model, inputs = model_in(name, dtype), inputs_in(BY_NAME[name], dtype, ROW)
        runs = [
            by_hand(model, inputs, PairMerge(), layer, how).logits
            for layer, how in ((1, "survived"), (1, "merged"), (2, "survived"))
        ]
        for other in runs[1:]:
            assert apart(other, runs[0]) > TOLERANCES[dtype], name
