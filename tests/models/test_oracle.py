"""The oracle itself: without a reduction it is the model; with one it reacts to every mistake."""

import pytest
import torch

from sttm.grid import VideoGrid
from sttm.methods import VideoFeatures

from .families import Family, every_family, shared_model
from .layouts import Text, Video
from .methods import KeepAll, KeepEvery, PairMerge
from .oracle import by_hand, reassigned, reduction

pytestmark = pytest.mark.usefixtures("no_gradients")
ROW = (Text(4), Video(3), Text(5, seed=1))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@every_family
def test_keeping_all_is_the_model(family: Family, attention: str) -> None:
    model, inputs = shared_model(family.name, attention), family.make_inputs(ROW)
    hand = by_hand(model, inputs, KeepAll(), layer=1, positions="survived")
    wanted = model(**inputs.tensors).logits[0]
    torch.testing.assert_close(hand.logits, wanted, atol=2e-4, rtol=0)


@every_family
def test_policies_methods_and_layers_differ(family: Family) -> None:
    """Logits are sensitive: two runs that should differ do so by far more than any tolerance."""
    model, inputs = shared_model(family.name), family.make_inputs(ROW)
    runs = {
        "survived": by_hand(model, inputs, PairMerge(), 1, "survived").tail(1),
        "merged": by_hand(model, inputs, PairMerge(), 1, "merged").tail(1),
        "reassigned": by_hand(model, inputs, PairMerge(), 1, "reassigned").tail(1),
        "pruned": by_hand(model, inputs, KeepEvery(), 1, "survived").tail(1),
        "later": by_hand(model, inputs, PairMerge(), 2, "survived").tail(1),
    }
    names = list(runs)
    for i, one in enumerate(names):
        for two in names[:i]:
            assert (runs[one] - runs[two]).abs().max() > 0.01, (one, two)


def test_the_matrix_of_a_merge() -> None:
    method, index = PairMerge(), torch.tensor([1, 2, 4, 5])
    plan = method.plan(VideoFeatures(torch.randn(4, 3), VideoGrid(2, 1, 2)))
    reduced = reduction(7, [(index, plan)])
    assert reduced.kept.tolist() == [0, 1, 3, 4, 6]
    assert reduced.matrix[1].tolist() == [0, 0.25, 0.75, 0, 0, 0, 0]
    assert reduced.matrix[3].tolist() == [0, 0, 0, 0, 0.25, 0.75, 0]


def test_renumbering_on_one_axis_leaves_no_gap() -> None:
    ids = torch.arange(9)[None]
    new = reassigned(
        ids, [torch.tensor([2, 3, 4]), torch.tensor([6, 7])], torch.tensor([0, 1, 3, 5, 7, 8])
    )
    assert new.tolist() == [[0, 1, 2, 3, 4, 5]]


def test_renumbering_on_three_axes() -> None:
    """A 3x1x2 video at 2..: the library lets text go on from 4, two behind the start."""
    time = [0, 1, 2, 2, 3, 3, 4, 4, 4, 5]
    rows = [0, 1, 2, 2, 2, 2, 2, 2, 4, 5]
    cols = [0, 1, 2, 3, 2, 3, 2, 3, 4, 5]
    kept = torch.tensor([0, 1, 2, 3, 5, 8, 9])
    new = reassigned(torch.tensor([time, rows, cols]), [torch.arange(2, 8)], kept)
    assert new.tolist() == [[0, 1, 2, 3, 4, 5, 6]] * 3
