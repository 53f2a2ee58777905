"""Sums in a fixed order, to the bit, on every machine; and in half precision in bounded memory.

The numbers make every order of addition visible: in float32 ``2**24 + 1`` is ``2**24``, and all
products are exact, so that fused multiplication changes nothing.
"""

from itertools import permutations
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sttm.ops.similarity import products
from sttm.plan import MergePlan

PARTS = (2.0**24, 1.0, -(2.0**24), 1.0)
ORDERS = torch.tensor(list(permutations(PARTS)))  # (24, 4)
# ((a + b) + c) + d of every order: 2**24 + 1 - 2**24 + 1 is 1, 2**24 - 2**24 + 1 + 1 is 2, ...
ONE_BY_ONE = [
    *(1.0, 0.0, 2.0, 2.0, 0.0, 1.0, 1.0, 0.0, 2.0, 2.0, 2.0, 2.0),
    *(2.0, 2.0, 2.0, 2.0, 2.0, 2.0, 0.0, 1.0, 2.0, 2.0, 2.0, 2.0),
]
# (a + c) + (b + d) of every order: 2 where the large ones meet first, else a 1 is lost.
BY_HALVES = [
    *(2.0, 1.0, 1.0, 1.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0, 1.0),
    *(1.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0, 1.0, 1.0, 1.0, 1.0, 2.0),
]


def add(a: float, b: float) -> float:
    """Add in float32."""
    return float(torch.tensor(a, dtype=torch.float32) + torch.tensor(b, dtype=torch.float32))


def by_halves(row: list[float]) -> float:
    """Add the second half to the first, three times where it can be halved; the rest exactly."""
    for _ in range(3):
        if len(row) % 2 == 0:
            half = len(row) // 2
            row = [add(row[i], row[i + half]) for i in range(half)]
    return sum(row)


def one_by_one(row: list[float]) -> float:
    total = 0.0
    for value in row:
        total = add(total, value)
    return total


def test_the_numbers_tell_orders_apart() -> None:
    rows = ORDERS.tolist()
    assert [one_by_one(row) for row in rows] == ONE_BY_ONE
    assert [by_halves(row) for row in rows] == BY_HALVES
    assert [one_by_one(row[::-1]) for row in rows] != ONE_BY_ONE
    assert set(ORDERS.double().sum(1).tolist()) == {2.0}
    assert ONE_BY_ONE != BY_HALVES


@pytest.mark.parametrize("heads", [1, 3])
def test_inner_products_are_summed_by_halves(heads: int) -> None:
    """``2**12 * 2**12`` and so on, with the sign on one side."""
    root = ORDERS.abs().sqrt()
    got = products((root * ORDERS.sign()).repeat(1, heads), root.repeat(1, heads), heads)
    assert got.tolist() == [[value] * heads for value in BY_HALVES]


@pytest.mark.parametrize("width", [1, 2, 3, 6, 8, 12, 20, 24, 56, 64])
def test_inner_products_of_any_width(width: int) -> None:
    generator = torch.Generator().manual_seed(width)
    x = torch.tensor(PARTS)[torch.randint(0, 4, (40, width), generator=generator)]
    got = products(x, torch.ones_like(x), 1)[:, 0].tolist()
    assert got == [by_halves(row) for row in x.tolist()]


def four_of_two_groups() -> MergePlan:
    """A plan of eight tokens in two groups that alternate, every share a quarter."""
    return MergePlan.from_groups(torch.tensor([0, 1] * 4), torch.tensor([0, 1]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("laid_out", ["rows", "columns", "wide"])
def test_merged_tokens_are_summed_in_their_order(dtype: torch.dtype, laid_out: str) -> None:
    columns = 4 * torch.stack([ORDERS.T, ORDERS.flip(0).T], 1).flatten(0, 1)  # (8, 24)
    x = columns.to(dtype)
    if laid_out == "columns":
        x = x.T.contiguous().T
    elif laid_out == "wide":
        x = x.repeat(1, 40)
    times = x.shape[1] // 24
    merged = four_of_two_groups().apply(x)
    assert merged.tolist() == [ONE_BY_ONE * times, ONE_BY_ONE[::-1] * times]


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the largest tensor of a dtype that an operation makes, in elements."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.dtype, self.elements = dtype, 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple | list) else (out,):
            if isinstance(each, torch.Tensor) and each.dtype == self.dtype:
                self.elements = max(self.elements, each.numel())
        return out


@pytest.mark.parametrize("shape", [(64, 1000), (64, 10, 100), (64, 7), (64, 3001)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_never_whole_in_float32(
    dtype: torch.dtype, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    piece = 64 * 90
    monkeypatch.setattr("sttm.plan._PIECE", piece)
    index = torch.arange(64)
    plan = MergePlan.from_groups(index // 2, index[::2])
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    with Largest(torch.float32) as largest:
        merged = plan.apply(x)
    assert merged.dtype == dtype
    assert 0 < largest.elements <= piece


def test_the_largest_tensor_is_noticed() -> None:
    with Largest(torch.float32) as largest:
        torch.zeros(3, 5).bfloat16().float()[:2]
    assert largest.elements == 15
