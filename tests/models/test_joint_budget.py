"""One budget for all videos of a call: busy videos get more of it than still ones."""

import pytest

import sttm
from sttm.budget import token_budget

from .families import Family, every_family, shared_model
from .layouts import Row, Text, Video
from .running import greedy

pytestmark = pytest.mark.usefixtures("no_gradients")

FRAMES = 6
BUSY: Row = (Text(4), Video(FRAMES, seed=3), Text(5, seed=1))
STILL: Row = (Text(3, seed=2), Video(FRAMES, seed=4, still=FRAMES - 1), Text(4, seed=4))


@every_family
def test_a_batch_shares_its_budget(family: Family) -> None:
    model, inputs = shared_model(family.name), family.make_inputs(BUSY, STILL)
    shared = {}
    for share in ("video", "joint"):
        method = sttm.get_method("sttm", keep=0.3, budget_scope=share)
        with sttm.attach(model, method, layer=0) as attachment:
            greedy(model, inputs, 2)
            shared[share] = [(r.tokens_in, r.tokens_out) for r in attachment.reports]
    (_, busy), (_, still) = shared["joint"]
    assert busy + still == token_budget(0.3, sum(total for total, _ in shared["joint"]))
    assert busy > still
    assert [kept for _, kept in shared["video"]] == [
        token_budget(0.3, total) for total, _ in shared["video"]
    ]
