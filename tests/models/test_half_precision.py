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
# How far logits of about 1.5 may be apart if matrices are multiplied in other shapes. Another layer
# or another policy moves them by 0.17 at least.
TOLERANCES = {torch.bfloat16: 0.15, torch.float16: 0.03}
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
    bound = TOLERANCES[dtype]
    left = hand.kept[hand.kept < inputs.length]
    torch.testing.assert_close(prompt[left], hand.logits[: len(left)], atol=bound, rtol=0)
    torch.testing.assert_close(answer.logits[0], hand.tail(3).float(), atol=bound, rtol=0)


def test_the_tolerance_tells_policies_and_layers_apart() -> None:
    """What the tests above allow is less than what the smallest mistake changes."""
    for name in BY_NAME:
        for dtype, bound in TOLERANCES.items():
            model, inputs = model_in(name, dtype), inputs_in(BY_NAME[name], dtype, ROW)
            runs = [
                by_hand(model, inputs, PairMerge(), layer, how).logits
                for layer, how in ((1, "survived"), (1, "merged"), (2, "survived"))
            ]
            for other in runs[1:]:
                assert float((runs[0] - other).abs().max()) > bound, (name, dtype)
