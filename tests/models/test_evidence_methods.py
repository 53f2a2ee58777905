"""The methods that read attention, through attach(): plans from evidence, runs as by hand."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
import torch

import sttm
from sttm import attach
from sttm.errors import UnsupportedModelError
from sttm.methods import Method, Signal, VideoFeatures, get_method
from sttm.plan import MergePlan
from tests.chat.tiny import bundle, clip

from .families import BY_NAME, flat, shared_model
from .layouts import Row, Text, Video
from .oracle import by_hand
from .running import greedy, tolerance

pytestmark = pytest.mark.usefixtures("no_gradients")

PROMPT = ("fastv", "framefusion")
TOWER = ("visionzip", "fastvid", "holitom")
ROW: Row = (Text(4), Video(4), Text(36, seed=1), Video(4, seed=3), Text(5, seed=2))


@dataclass(frozen=True)
class Replay(Method):
    """Gives plans that were made before, in their order."""

    plans: list[MergePlan] = field(default_factory=list)

    name: ClassVar[str] = "replay"

    def plan(self, video: VideoFeatures) -> MergePlan:
        return self.plans.pop(0)


@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl", "qwen3_vl"])
@pytest.mark.parametrize("name", PROMPT + TOWER)
def test_runs_as_by_hand(name: str, family: str) -> None:
    model, writer = shared_model(family), BY_NAME[family]
    inputs, method = writer.make_inputs(ROW), get_method(name, keep=0.4)
    with attach(model, method, layer=1, positions="survived") as attachment:
        answer = greedy(model, inputs, 3)
        plans = [report.plan for report in attachment.reports]
    count = flat(inputs.videos)[0].grid.num_tokens
    assert [plan.check().num_out for plan in plans] == [int(0.4 * count)] * 2
    whole = inputs.followed_by(answer.tokens[:, :-1])
    hand = by_hand(model, whole, Replay(plans), 1, "survived")
    torch.testing.assert_close(answer.logits[0], hand.tail(3), atol=tolerance(family), rtol=0)


def test_plans_come_from_the_evidence() -> None:
    seen: list[VideoFeatures] = []

    @dataclass(frozen=True)
    class Both(Method):
        name: ClassVar[str] = "both"
        query_aware: ClassVar[bool] = True
        requires: ClassVar[frozenset[Signal]] = frozenset({"tower_attention", "prompt_attention"})

        def plan(self, video: VideoFeatures) -> MergePlan:
            seen.append(video)
            return MergePlan.identity(video.grid.num_tokens)

    model, inputs = shared_model("qwen2_5_vl"), BY_NAME["qwen2_5_vl"].make_inputs(ROW)
    with attach(model, Both(), layer=2):
        model(**inputs.tensors)
    for name in PROMPT + TOWER:
        method: Any = get_method(name, keep=0.3)
        with attach(model, method, layer=2) as attachment:
            model(**inputs.tensors)
            plans = [report.plan for report in attachment.reports]
        for plan, video in zip(plans, seen, strict=True):
            alone = method.plan(video)
            assert torch.equal(plan.group, alone.group)
            assert torch.equal(plan.weight, alone.weight)


@pytest.mark.parametrize("name", TOWER)
def test_chats(name: str) -> None:
    tiny = bundle("qwen2_5_vl")
    chat = sttm.VideoChat(tiny.model, tiny.processor, get_method(name, keep=0.5))
    video = chat.watch(clip())
    assert video.tokens_out == video.tokens_in // 2
    assert video.ask("What?", max_new_tokens=3).ids


@pytest.mark.parametrize("name", TOWER)
def test_families_without_a_known_tower_say_what_to_do(name: str) -> None:
    with pytest.raises(UnsupportedModelError, match="Use a method without tower_attention"):
        attach(shared_model("internvl"), get_method(name, keep=0.5))
