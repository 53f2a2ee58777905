"""The vision tower's attention, per token, is that of eager attention, pooled like the features."""

import sys
from dataclasses import dataclass, field
from math import ceil
from typing import Any, ClassVar

import pytest
import torch
from torch.nn.functional import interpolate

import sttm
from sttm import attach
from sttm.errors import UnreducedVideoError, UnsupportedModelError
from sttm.grid import VideoGrid
from sttm.methods import Method, Signal, VideoFeatures
from sttm.models import attention_scores as mechanics
from sttm.plan import MergePlan
from tests.chat.tiny import bundle, clip

from . import configs
from .families import BY_NAME, FAMILIES, Family, Inputs, flat, shared_model
from .layouts import Row, Text, Video
from .methods import KeepEvery, keep_only

pytestmark = pytest.mark.usefixtures("no_gradients")

LLAVA = ["llava_onevision", "llava_next_video"]
QWEN = ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5"]
ROW: Row = (Text(4), Video(3), Text(5, seed=1))
SECOND: Row = (Text(2, seed=2), Video(3, seed=3), Text(9, seed=4))


@dataclass(frozen=True)
class Watcher(Method):
    """Keeps the third that received the most attention, and remembers what it was told."""

    seen: list[VideoFeatures] = field(default_factory=list)

    name: ClassVar[str] = "watcher"
    requires: ClassVar[frozenset[Signal]] = frozenset({"tower_attention"})

    def plan(self, video: VideoFeatures) -> MergePlan:
        assert video.tower_attention is not None
        self.seen.append(video)
        count = max(1, video.grid.num_tokens // 3)
        return keep_only(
            video.grid.num_tokens, video.tower_attention.topk(count).indices.sort().values
        )


def per_frame(tokens: torch.Tensor, grid: VideoGrid) -> torch.Tensor:
    frames = tokens.view(grid.frames, -1)
    return (frames / frames.sum(1, keepdim=True)).flatten()


def llava_told(family: Family, inputs: Inputs) -> list[torch.Tensor]:
    """By the library's own ``output_attentions``."""
    model = shared_model(family.name, "eager")
    pixels = inputs.tensors["pixel_values_videos"]
    layer = model.config.vision_feature_layer
    out = model.model.vision_tower(pixels.flatten(0, 1), output_attentions=True)
    # The feature layer counts the embeddings too: -1 is the last layer's output.
    weights = out.attentions[layer if layer < 0 else layer - 1].mean(1)
    # The class token's view of the others, where there is one.
    patches = weights[:, 0, 1:] if family.name == "llava_next_video" else weights.mean(1)
    side = int(patches.shape[1] ** 0.5)
    frames = patches.view(-1, 1, side, side)
    if family.name == "llava_next_video":
        pooled = frames.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))
    else:
        pooled = interpolate(frames, size=(ceil(side / 2), ceil(side / 2)), mode="bilinear")
    grids = [place.grid for place in flat(inputs.videos)]
    parts = torch.split(pooled.flatten(), [grid.num_tokens for grid in grids])
    return [per_frame(part, grid) for part, grid in zip(parts, grids, strict=True)]


def qwen_told(
    family: Family, inputs: Inputs, monkeypatch: pytest.MonkeyPatch
) -> list[torch.Tensor]:
    """By listening in on the library's eager attention, and to where patches are moved."""
    model = shared_model(family.name, "eager")
    tower = model.model.visual
    last = tower.blocks[-1].attn
    module = sys.modules[type(last).__module__]
    plain, chunks, states = module.eager_attention_forward, [], []

    def listening(attention: Any, *args: Any, **kwargs: Any) -> Any:
        output, weights = plain(attention, *args, **kwargs)
        if attention is last:
            chunks.append(weights[0].mean(0).mean(0) * weights.shape[-1])
        return output, weights

    monkeypatch.setattr(module, "eager_attention_forward", listening)
    hooks = [
        tower.patch_embed.register_forward_hook(lambda m, a, out: states.append(out)),
        tower.blocks[0].register_forward_pre_hook(lambda m, a: states.append(a[0])),
    ]
    model.model.get_video_features(
        inputs.tensors["pixel_values_videos"], inputs.tensors["video_grid_thw"], return_dict=True
    )
    for hook in hooks:
        hook.remove()
    patches = torch.cat(chunks)
    if family.name.startswith("qwen2"):  # the others add position embeddings, and move nothing
        source = torch.cdist(states[1].flatten(1), states[0].flatten(1)).argmin(1)
        assert sorted(source.tolist()) == list(range(len(source)))
        patches = torch.empty_like(patches).index_copy_(0, source, patches)
    tokens = patches.view(-1, 4).mean(1)
    grids = [place.grid for place in flat(inputs.videos)]
    parts = torch.split(tokens, [grid.num_tokens for grid in grids])
    return [per_frame(part, grid) for part, grid in zip(parts, grids, strict=True)]


def check(seen: list[VideoFeatures], told: list[torch.Tensor], grids: list[VideoGrid]) -> None:
    assert len(seen) == len(told) == len(grids)
    for got, want, grid in zip(seen, told, grids, strict=True):
        assert got.prompt_attention is None
        assert got.tower_attention is not None
        torch.testing.assert_close(got.tower_attention, want, atol=1e-5, rtol=0)
        total = got.tower_attention.view(grid.frames, -1).sum(1)
        torch.testing.assert_close(total, torch.ones(grid.frames))
        assert float(want.std()) > 1e-3  # and there is something to see


def told(family: Family, inputs: Inputs, monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    if family.name in LLAVA:
        return llava_told(family, inputs)
    return qwen_told(family, inputs, monkeypatch)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", LLAVA + QWEN)
def test_forward_and_generate(name: str, attention: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family, model = BY_NAME[name], shared_model(name, attention)
    inputs, method = family.make_inputs(ROW), Watcher()
    grids = [place.grid for place in flat(inputs.videos)]
    with attach(model, method, layer=1) as attachment:
        model(**inputs.tensors)
        model.generate(**inputs.tensors, max_new_tokens=3, do_sample=False)
        if "beams" not in family.broken:
            model.generate(**inputs.tensors, max_new_tokens=3, do_sample=False, num_beams=2)
        (report,) = attachment.reports
    want = told(family, inputs, monkeypatch)
    for got in method.seen:
        check([got], want, grids)
    assert len(method.seen) == 2 + ("beams" not in family.broken)
    count = report.tokens_out
    assert set(report.plan.anchor.tolist()) == set(want[0].topk(count).indices.tolist())


@pytest.mark.parametrize("name", LLAVA + QWEN)
def test_batches_with_padding(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    family, method = BY_NAME[name], Watcher()
    third: Row = (Text(1), Video(4 if family.ragged else 3, seed=9), Text(3, seed=1))
    inputs = family.make_inputs(ROW, SECOND, third)
    with attach(shared_model(name), method, layer=2):
        shared_model(name)(**inputs.tensors)
    grids = [place.grid for place in flat(inputs.videos)]
    check(method.seen, told(family, inputs, monkeypatch), grids)


@pytest.mark.parametrize(("height", "width"), [(5, 3), (4, 7)])
@pytest.mark.parametrize("name", QWEN)
def test_windows_and_odd_sides(
    name: str, height: int, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, method = BY_NAME[name], Watcher()
    row: Row = (Text(4), Video(2, height=height, width=width), Text(5, seed=1))
    inputs = family.make_inputs(row, SECOND)
    with attach(shared_model(name), method, layer=1):
        shared_model(name)(**inputs.tensors)
    grids = [place.grid for place in flat(inputs.videos)]
    check(method.seen, told(family, inputs, monkeypatch), grids)


def test_large_frames_are_measured_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mechanics, "_PIECE", 100)
    for name in ("llava_onevision", "qwen2_5_vl"):
        family, method = BY_NAME[name], Watcher()
        inputs = family.make_inputs(ROW)
        with attach(shared_model(name), method, layer=1):
            shared_model(name)(**inputs.tensors)
        check(method.seen, told(family, inputs, monkeypatch), [inputs.videos[0][0].grid])


def test_images_and_methods_that_do_not_ask_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: Any) -> Any:
        raise AssertionError

    family, model = BY_NAME["llava_onevision"], shared_model("llava_onevision")
    inputs = family.make_inputs(ROW)
    monkeypatch.setattr(mechanics, "received", forbidden)
    with attach(model, KeepEvery(2), layer=1):
        model(**inputs.tensors)
    with attach(model, Watcher(), layer=1):
        model.model.vision_tower(inputs.tensors["pixel_values_videos"][0])
        with pytest.raises(AssertionError):
            model(**inputs.tensors)
        # The failed call is over: nothing is measured any more.
        model.model.vision_tower(inputs.tensors["pixel_values_videos"][0])
    model(**inputs.tensors)


@pytest.mark.parametrize(
    "family", [f for f in FAMILIES if f.name not in LLAVA + QWEN], ids=lambda f: f.name
)
def test_other_families_are_refused_at_once(family: Family) -> None:
    with pytest.raises(UnsupportedModelError, match="tower"):
        attach(shared_model(family.name), Watcher())
    with attach(shared_model(family.name), KeepEvery(2)):
        pass


def test_learned_pooling_is_refused() -> None:
    model = shared_model("llava_next_video")
    before = model.config.spatial_pool_mode
    model.config.spatial_pool_mode = "conv"
    try:
        with pytest.raises(UnsupportedModelError, match="conv"):
            attach(model, Watcher())
    finally:
        model.config.spatial_pool_mode = before


@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_5_vl", "qwen3_vl"])
def test_a_chat_watches_with_it(name: str) -> None:
    tiny, method = bundle(name), Watcher()
    chat = sttm.VideoChat(tiny.model, tiny.processor, method)
    video = chat.watch(clip())
    assert len(method.seen) == 1
    attention = method.seen[0].tower_attention
    assert attention is not None
    grid = video.reports[0].grid
    assert attention.shape == (grid.num_tokens,)
    assert video.tokens_out == grid.num_tokens // 3
    assert video.ask("What?", max_new_tokens=3).ids
    assert len(method.seen) == 1


@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_5_vl"])
def test_features_that_were_encoded_without_it_are_an_error(name: str) -> None:
    tiny = bundle(name)
    plain = sttm.VideoChat(tiny.model, tiny.processor, KeepEvery(2))
    chat = sttm.VideoChat(tiny.model, tiny.processor, Watcher())
    with pytest.raises(UnreducedVideoError, match="Watcher needs"):
        chat.prefill(plain.encode(clip()))
    encoded = chat.encode(clip())  # and what has it serves everyone
    assert chat.prefill(encoded).tokens_out == encoded.tokens // 3
    assert plain.prefill(encoded).tokens_out == encoded.tokens // 2


def test_the_class_token_configuration_is_what_the_tests_assume() -> None:
    assert configs.llava_next_video().vision_feature_select_strategy == "default"
    assert configs.llava_onevision().vision_feature_select_strategy == "full"
