"""A reduced run equals the same reduction by hand, prefill and every decoded token."""

from itertools import product

import pytest
import torch

from sttm.attachment import attach
from sttm.methods.base import Method

from .families import (
    BY_NAME,
    FAMILIES,
    Family,
    Inputs,
    every_family,
    shared_model,
    shared_out,
)
from .layouts import Image, Row, Text, Video
from .methods import ContentMerge, DropMost, FrameMerge, KeepEvery, PairMerge
from .oracle import by_hand
from .running import greedy, tolerance

pytestmark = pytest.mark.usefixtures("no_gradients")

POLICIES = ["survived", "reassigned", "merged"]
ROW: Row = (Text(4), Video(4), Text(5, seed=1))


def check_by_hand(
    family: Family,
    inputs: Inputs,
    method: Method,
    layer: int,
    positions: str,
    attention: str = "sdpa",
    steps: int = 6,
) -> None:
    """Decode with the cache; then run prompt and answer by hand, once, without a cache.

    The hand's logits at the end of the prompt and behind each decoded token must be those of the
    steps, and its best tokens must be the decoded ones: then greedy decoding by hand agrees too.
    """
    model = shared_model(family.name, attention)
    with attach(model, method, layer=layer, positions=positions) as attachment:
        answer = greedy(model, inputs, steps)
        reports = list(attachment.reports)
    whole = inputs.followed_by(answer.tokens[:, :-1])
    hand = by_hand(model, whole, method, layer, positions)
    got = answer.logits[0]
    torch.testing.assert_close(got, hand.tail(steps), atol=tolerance(family.name), rtol=0)
    assert answer.tokens[0].tolist() == hand.tail(steps).argmax(-1).tolist()
    for report, plan, place in zip(reports, hand.plans, inputs.videos[0], strict=True):
        assert report.grid == place.grid
        assert (report.tokens_in, report.tokens_out) == (plan.num_in, plan.num_out)
        assert torch.equal(report.plan.group, plan.group)
        assert torch.equal(report.plan.anchor, plan.anchor)


@pytest.mark.parametrize("positions", POLICIES)
@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@every_family
def test_merged_pairs(family: Family, attention: str, layer: int, positions: str) -> None:
    inputs = family.make_inputs(ROW)
    check_by_hand(family, inputs, PairMerge(), layer, positions, attention)


@pytest.mark.parametrize(
    "method", [KeepEvery(3), FrameMerge(), ContentMerge(), DropMost()], ids=lambda m: m.name
)
@shared_out("positions", POLICIES)
def test_other_methods(family: Family, method: Method, positions: str) -> None:
    check_by_hand(family, family.make_inputs(ROW), method, 1, positions, steps=3)


@pytest.mark.parametrize("layer", [3, 4])
@every_family
def test_the_last_layers(family: Family, layer: int) -> None:
    check_by_hand(family, family.make_inputs(ROW), PairMerge(), layer, "reassigned", steps=3)


@shared_out("positions", POLICIES)
def test_two_videos_in_one_prompt(family: Family, positions: str) -> None:
    second = Video(4 if not family.ragged else 2, seed=2)
    row = (Text(3), Video(4), Text(36, seed=1), second, Text(4, seed=2))
    check_by_hand(family, family.make_inputs(row), ContentMerge(), 1, positions, steps=3)


@pytest.mark.parametrize("first", ["image", "video"])
@pytest.mark.parametrize("positions", POLICIES)
@pytest.mark.parametrize("family", [f for f in FAMILIES if f.images], ids=lambda f: f.name)
def test_an_image_beside_a_video(family: Family, positions: str, first: str) -> None:
    parts: Row = (Image(), Text(36, seed=1), Video(3))
    row = (Text(3), *(parts if first == "image" else parts[::-1]), Text(4, seed=2))
    check_by_hand(family, family.make_inputs(row), PairMerge(), 1, positions, steps=3)


@pytest.mark.parametrize(("height", "width"), [(1, 3), (3, 2)])
@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "video_llama_3"])
def test_frames_of_other_shapes(name: str, height: int, width: int) -> None:
    family = BY_NAME[name]
    row = (Text(3), Video(3, height=height, width=width), Text(4, seed=2))
    check_by_hand(family, family.make_inputs(row), FrameMerge(), 1, "reassigned", steps=3)


@every_family
def test_the_default_policy(family: Family) -> None:
    model, inputs = shared_model(family.name), family.make_inputs(ROW)
    wanted = "survived" if family.rope == "mrope" else "reassigned"
    with attach(model, PairMerge(), layer=2) as attachment:
        answer = greedy(model, inputs, 1)
        assert [report.positions for report in attachment.reports] == [wanted]
    hand = by_hand(model, inputs, PairMerge(), 2, wanted)
    torch.testing.assert_close(answer.logits[0], hand.tail(1), atol=tolerance(family.name), rtol=0)


@shared_out("layer,positions", list(product([0, 2], POLICIES)))
def test_one_prefill_of_prompt_and_answer_equals_decoding(
    family: Family, layer: int, positions: str
) -> None:
    """No gap in the positions, no token seen twice: the cache holds what one forward computes."""
    model, inputs = shared_model(family.name), family.make_inputs(ROW)
    with attach(model, KeepEvery(), layer=layer, positions=positions):
        answer = greedy(model, inputs, 6)
        whole = inputs.followed_by(answer.tokens[:, :-1])
        without = model(**whole.tensors, use_cache=False).logits
        cached = model(**whole.tensors, use_cache=True).logits
    assert torch.equal(without, cached)
    torch.testing.assert_close(without[:, -6:], answer.logits, atol=tolerance(family.name), rtol=0)
