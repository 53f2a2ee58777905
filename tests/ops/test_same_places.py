"""Merging tokens of one place: the fast way and its literal twin."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sttm.ops import naive_same_places
from sttm.ops.same_places import merge_places


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    count=st.integers(1, 24),
    places=st.integers(1, 5),
    share=st.floats(0, 1),
    some=st.floats(0, 1),
)
def test_groups_are_those_of_the_twin(
    seed: int, count: int, places: int, share: float, some: float
) -> None:
    made = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 6, generator=made)
    place = torch.randint(places, (count,), generator=made)
    box = torch.stack([torch.arange(count), place, place, place + 1, place + 1], 1)
    oldest = 1 + int(some * (count - 1))
    possible = oldest - len(set(place[:oldest].tolist()))
    keep = count - int(share * possible)
    plan = merge_places(x, box, torch.ones(count), keep, oldest=oldest)
    assert plan.num_out == keep
    found = [(plan.group == group).nonzero()[:, 0].tolist() for group in range(keep)]
    assert found == naive_same_places.merge_places(x, box.tolist(), keep, oldest)


def test_equal_pairs_merge_in_the_order_of_their_places() -> None:
    x = torch.ones(6, 3)
    box = torch.tensor([[t, p, p, p + 1, p + 1] for t in range(3) for p in (1, 0)])
    for keep in range(2, 7):
        plan = merge_places(x, box, torch.ones(6), keep)
        found = [(plan.group == group).nonzero()[:, 0].tolist() for group in range(keep)]
        assert found == naive_same_places.merge_places(x, box.tolist(), keep)
