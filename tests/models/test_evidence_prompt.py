"""The prompt's attention, recomputed, is that of the unpatched model under eager attention."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pytest
import torch
from transformers.cache_utils import DynamicCache, StaticCache

import sttm
from sttm import attach
from sttm.errors import ConfigError, UnsupportedModelError
from sttm.grid import VideoGrid
from sttm.methods import Method, Signal, VideoFeatures
from sttm.plan import MergePlan

from . import configs
from .families import BY_NAME, Family, Inputs, every_family, shared_model
from .layouts import Row, Text, Video
from .methods import KeepEvery, keep_only
from .names import with_cache

pytestmark = pytest.mark.usefixtures("no_gradients")

ROW: Row = (Text(4), Video(3), Text(5, seed=1))
SECOND: Row = (Text(2, seed=2), Video(3, seed=3), Text(9, seed=4))
# Layers that have attention weights; the others of qwen3_5 are linear.
FULL = {"qwen3_5": (2, 4)}


@dataclass(frozen=True)
class Watcher(Method):
    """Keeps the most attended third, and remembers what it was told."""

    seen: list[VideoFeatures] = field(default_factory=list)

    name: ClassVar[str] = "watcher"
    query_aware: ClassVar[bool] = True
    requires: ClassVar[frozenset[Signal]] = frozenset({"prompt_attention"})

    def plan(self, video: VideoFeatures) -> MergePlan:
        assert video.prompt_attention is not None
        self.seen.append(video)
        count = max(1, video.grid.num_tokens // 3)
        return keep_only(
            video.grid.num_tokens, video.prompt_attention.topk(count).indices.sort().values
        )


def layers_of(family: Family) -> list[tuple[int, int]]:
    """Pairs of the layer to reduce before and the layer to observe."""
    full = FULL.get(family.name, range(5))
    pairs = [(layer, [i for i in full if i <= max(layer - 1, 0)]) for layer in range(5)]
    return [(layer, below[-1]) for layer, below in pairs if below]


def eager_weights(family: Family, inputs: Inputs, layer: int, **more: Any) -> torch.Tensor:
    """Weights ``(B, N, N)`` of one layer of the unpatched model, mean over heads."""
    model = shared_model(family.name, "eager")
    attentions = model(**inputs.tensors, output_attentions=True, **more).attentions
    weighted = FULL.get(family.name, range(5))
    found: torch.Tensor = attentions[list(weighted).index(layer)].float().mean(1)
    return found


def wanted(family: Family, inputs: Inputs, layer: int) -> list[torch.Tensor]:
    """What each video should be told."""
    weights = eager_weights(family, inputs, layer)
    mask = inputs.tensors["attention_mask"]
    told = []
    for row, places in enumerate(inputs.videos):
        last = int(mask[row].nonzero().max())
        told += [weights[row, last, place.index] for place in places]
    return told


def check(seen: list[VideoFeatures], told: list[torch.Tensor]) -> None:
    assert len(seen) == len(told)
    for got, want in zip(seen, told, strict=True):
        assert got.tower_attention is None
        assert got.prompt_attention is not None
        assert got.prompt_attention.dtype == torch.float32
        torch.testing.assert_close(got.prompt_attention, want, atol=1e-5, rtol=0)
        assert float(want.max()) > 1e-3  # and there is something to see


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@every_family
def test_every_layer_of_every_family(family: Family, attention: str) -> None:
    inputs = family.make_inputs(ROW)
    for layer, observed in layers_of(family):
        method = Watcher()
        with attach(shared_model(family.name, attention), method, layer=layer) as attachment:
            assert attachment.prompt_score_layer == observed
            shared_model(family.name, attention)(**inputs.tensors)
        check(method.seen, wanted(family, inputs, observed))


@pytest.mark.parametrize("padding", ["left", "right"])
@every_family
def test_padded_batches(family: Family, padding: Any) -> None:
    inputs = family.make_inputs(ROW, SECOND, (Text(7, seed=5),), padding=padding)
    layer, observed = layers_of(family)[-1]
    method = Watcher()
    with attach(shared_model(family.name), method, layer=layer):
        shared_model(family.name)(**inputs.tensors)
    check(method.seen, wanted(family, inputs, observed))


@every_family
def test_generate_asks_once_and_keeps_the_most_attended(family: Family) -> None:
    inputs = family.make_inputs(ROW)
    layer, observed = layers_of(family)[-1]
    method = Watcher()
    with attach(shared_model(family.name), method, layer=layer) as attachment:
        shared_model(family.name).generate(**inputs.tensors, max_new_tokens=3, do_sample=False)
        (report,) = attachment.reports
    told = wanted(family, inputs, observed)
    check(method.seen, told)
    count = report.tokens_out
    assert set(report.plan.anchor.tolist()) == set(told[0].topk(count).indices.tolist())


@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_5_vl", "qwen3_5"])
def test_the_model_is_as_before(name: str) -> None:
    family, model = BY_NAME[name], shared_model(name)
    inputs = family.make_inputs(ROW)
    before = model(**inputs.tensors).logits
    hooks = sum(len(m._forward_pre_hooks) for m in model.modules())
    attachment = attach(model, Watcher(), layer=layers_of(family)[-1][0])
    assert sum(len(m._forward_pre_hooks) for m in model.modules()) > hooks
    attachment.detach()
    assert sum(len(m._forward_pre_hooks) for m in model.modules()) == hooks
    assert torch.equal(model(**inputs.tensors).logits, before)


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("name", ["llava_onevision", "llava_next_video", "internvl"])
def test_a_prompt_behind_a_cached_one(name: str, static: bool) -> None:
    """The softmax is over what the cache holds, too."""
    family, model = BY_NAME[name], shared_model(name)
    told, got = [], Watcher()
    lead = torch.randint(10, 130, (1, 7), generator=torch.Generator().manual_seed(5))
    inputs = family.make_inputs(ROW)
    mask = torch.ones(1, 7 + inputs.length, dtype=torch.long)
    for implementation in ("eager", "sdpa"):
        model = shared_model(name, implementation)
        text = model.config.get_text_config()
        cache = StaticCache(text, max_cache_len=80) if static else DynamicCache(config=text)
        model(input_ids=lead, **with_cache(cache))
        tensors = {**inputs.tensors, "attention_mask": mask, **with_cache(cache)}
        if implementation == "eager":
            weights = model(**tensors, output_attentions=True).attentions[1].mean(1)
            told.append(weights[0, -1, inputs.videos[0][0].index + 7])
        else:
            with attach(model, got, layer=2):
                model(**tensors)
    check(got.seen, told)


@pytest.mark.parametrize("cached", [0, 20])
def test_sliding_windows(cached: int) -> None:
    def config() -> Any:
        made = configs.llava_onevision()
        made.text_config.use_sliding_window = True
        made.text_config.sliding_window = 16
        made.text_config.layer_types = ["sliding_attention"] * configs.LAYERS
        return made

    family = replace(BY_NAME["llava_onevision"], config=config)
    inputs, method = family.make_inputs(ROW, SECOND), Watcher()
    mask = inputs.tensors["attention_mask"]
    lead = torch.randint(10, 130, (2, cached), generator=torch.Generator().manual_seed(5))
    rows = []
    for implementation in ("eager", "sdpa"):
        model = family.make_model(implementation)
        cache = DynamicCache(config=model.config.get_text_config())
        if cached:
            model(input_ids=lead, **with_cache(cache))
        tensors = {**inputs.tensors, "attention_mask": torch.cat([torch.ones_like(lead), mask], 1)}
        if implementation == "eager":
            out = model(**tensors, **with_cache(cache), output_attentions=True).attentions[1]
            rows = list(out.mean(1)[:, -1, -inputs.length :])
        else:
            with attach(model, method, layer=2):
                model(**tensors, **with_cache(cache))
    told = [row[places[0].index] for row, places in zip(rows, inputs.videos, strict=True)]
    assert all(bool((row == 0).any()) for row in told)
    check(method.seen, told)


def test_tokens_that_the_model_dropped_get_no_attention() -> None:
    family = BY_NAME["video_llama_3"]
    dropped = (7, 8, 12, 13, 14)
    inputs = family.make_inputs((Text(4), Video(3, dropped=dropped), Text(5, seed=1)))
    method = Watcher()
    with attach(shared_model(family.name), method, layer=2) as attachment:
        shared_model(family.name)(**inputs.tensors)
        (report,) = attachment.reports
    assert report.tokens_in == 13
    told = torch.zeros(18)
    told[[i for i in range(18) if i not in dropped]] = wanted(family, inputs, 1)[0]
    check(method.seen, [told])


def test_layers_without_attention_weights_are_refused_at_once() -> None:
    for layer in (0, 1, 2):
        with pytest.raises(UnsupportedModelError, match="layer=3 or more"):
            attach(shared_model("qwen3_5"), Watcher(), layer=layer)
    with attach(shared_model("qwen3_5"), Watcher(), layer=4) as attachment:
        assert attachment.prompt_score_layer == 2


def test_a_second_video_behind_one_that_was_reduced_in_front_of_layer_0_is_refused() -> None:
    family, model = BY_NAME["llava_onevision"], shared_model("llava_onevision")
    inputs = family.make_inputs(ROW)
    cache = DynamicCache(config=model.config.get_text_config())
    tensors = {**inputs.tensors, **with_cache(cache)}
    with attach(model, KeepEvery(2), layer=0):
        model(**tensors)
    mask = torch.ones(1, 2 * inputs.length, dtype=torch.long)
    with (
        attach(model, Watcher(), layer=0),
        pytest.raises(UnsupportedModelError, match="layer=1 or more"),
    ):
        model(**{**tensors, "attention_mask": mask})


def test_unknown_needs_are_refused() -> None:
    @dataclass(frozen=True)
    class Wants(KeepEvery):
        requires: ClassVar[frozenset[Any]] = frozenset({"sound"})

    class Old(KeepEvery):
        needs = frozenset({"prompt_attention"})

    with pytest.raises(ConfigError, match="sound"):
        attach(shared_model("llava_onevision"), Wants())
    with pytest.raises(ConfigError, match="now called requires"):
        attach(shared_model("llava_onevision"), Old())
    assert getattr(shared_model("llava_onevision").model, "_sttm_hooks", None) is None


def test_videos_of_one_call_can_be_planned_together() -> None:
    @dataclass(frozen=True)
    class Together(KeepEvery):
        calls: list[list[VideoGrid]] = field(default_factory=list)

        def plan_batch(self, videos: Sequence[VideoFeatures]) -> list[MergePlan]:
            self.calls.append([video.grid for video in videos])
            return super().plan_batch(videos)

    method, family = Together(2), BY_NAME["video_llama_3"]
    row = (*ROW, Text(36, seed=1), Video(2, seed=2, dropped=(7, 8)), Text(2, seed=3))
    model, inputs = shared_model(family.name), family.make_inputs(row, SECOND)
    with attach(model, method, layer=1) as attachment:
        model(**inputs.tensors)
        assert [r.tokens_in for r in attachment.reports] == [18, 10, 18]
        together = [r.plan.anchor.tolist() for r in attachment.reports]
    assert method.calls == [[VideoGrid(3, 2, 3), VideoGrid(2, 2, 3), VideoGrid(3, 2, 3)]]
    with attach(model, KeepEvery(2), layer=1) as attachment:
        model(**inputs.tensors)
        assert [r.plan.anchor.tolist() for r in attachment.reports] == together


def test_a_chat_refuses_methods_that_depend_on_the_question() -> None:
    with pytest.raises(ConfigError, match=r"watcher.*attach\(\)"):
        sttm.VideoChat(shared_model("llava_onevision"), None, Watcher())
