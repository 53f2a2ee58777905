"""Frames in chunks, repeats once, and patches that stand still: against the tower as it is."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

import sttm
from sttm.chat import VideoStore
from sttm.errors import ConfigError, UnsupportedModelError
from sttm.models import adapter_for
from sttm.models.adapter import noted_videos
from sttm.models.encoding import FrameEncoding, encode_frames, pixel_levels
from sttm.models.patch_reuse import PatchReuse
from sttm.models.transformers_api import ENCODER_FIELDS, Signature
from tests.chat.tiny import bundle, clip

from .families import BY_NAME, Family, every_family, shared_model
from .layouts import Row, Text, Video
from .test_evidence_tower import Watcher

pytestmark = pytest.mark.usefixtures("no_gradients")

# The last of five time steps repeats the one before; a second video of other pixels.
ROWS: tuple[Row, ...] = ((Text(4), Video(5, still=1)), (Text(4), Video(5, seed=3)))
WHOLE = FrameEncoding(chunk=99, dedupe=None)
TOWERS = ["llava_onevision", "llava_next_video", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5"]


def encoder_arguments(family: Family, *rows: Row) -> dict[str, torch.Tensor]:
    adapter = adapter_for(shared_model(family.name))
    names = Signature.of(adapter.base, adapter.encoder)
    return {n: v for n, v in family.make_inputs(*rows).tensors.items() if n in names}


def encode(family: Family, arguments: dict[str, torch.Tensor], encoding: FrameEncoding) -> Any:
    """Encode, and count the time steps of each call of the encoder."""
    adapter = adapter_for(shared_model(family.name))
    calls: list[int] = []

    def counted(**call: Any) -> Any:
        calls.append(len(adapter.split_steps(call) or ()))
        return getattr(adapter.base, adapter.encoder)(**call)

    return encode_frames(adapter, counted, arguments, encoding), calls


def tensors(value: Any) -> list[torch.Tensor]:
    """All tensors of a nested output, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    return [t for part in value for t in tensors(part)] if isinstance(value, Sequence) else []


def fields(output: Any) -> list[torch.Tensor]:
    return [t for name in ENCODER_FIELDS for t in tensors(output.get(name))]


@every_family
def test_chunks_give_what_one_call_gives(family: Family) -> None:
    arguments = encoder_arguments(family, *ROWS)
    adapter = adapter_for(shared_model(family.name))
    whole = getattr(adapter.base, adapter.encoder)(**arguments, return_dict=True)
    output, calls = encode(family, arguments, FrameEncoding(chunk=3, dedupe=None))
    assert family.name == "smolvlm" or (max(calls) == 3 and sum(calls) == 10)
    for name in ENCODER_FIELDS:
        assert type(output.get(name)) is type(whole.get(name))
    for ours, theirs in zip(fields(output), fields(whole), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert noted_videos(output) == adapter.encoded(arguments, whole)


@every_family
def test_repeats_are_encoded_once_and_bit_equal(family: Family) -> None:
    arguments = encoder_arguments(family, *ROWS)
    every, all_calls = encode(family, arguments, FrameEncoding(chunk=1, dedupe=None))
    once, calls = encode(family, arguments, FrameEncoding(chunk=1))
    if family.name != "smolvlm":
        assert (len(all_calls), len(calls)) == (10, 9)
    for ours, theirs in zip(fields(once), fields(every), strict=True):
        assert torch.equal(ours, theirs)


def test_a_pair_of_frames_repeats_only_as_a_pair() -> None:
    tiny, steps = bundle("qwen2_5_vl"), []
    frames = clip(8)
    frames[3:6] = frames[2]  # of the pairs (0 1) (2 3) (4 5) (6 7) the third repeats the second
    with sttm.VideoChat(tiny.model, tiny.processor) as chat:
        tower = chat.adapter.base.visual
        handle = tower.register_forward_pre_hook(
            lambda module, args, call: steps.extend(call["grid_thw"].tolist()), with_kwargs=True
        )
        once = chat.encode(frames)
        chat.encoding = FrameEncoding(chunk=1, dedupe=None)
        every = chat.encode(frames)
        handle.remove()
    assert len(steps) == 3 + 4
    torch.testing.assert_close(once.features.pooler_output, every.features.pooler_output)


@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_5_vl"])
def test_near_repeats_take_the_last_encoded_frame(name: str) -> None:
    family = BY_NAME[name]
    arguments = encoder_arguments(family, ((Text(4), Video(5))))
    adapter = adapter_for(shared_model(name))
    steps = adapter.split_steps(arguments)
    assert steps is not None
    first = steps[0][adapter.pixels]
    for place, step in enumerate(steps):  # a slow drift: every step is 2 levels from the one before
        step[adapter.pixels].copy_(first + place * 2 / 255)
    _, calls = encode(family, arguments, FrameEncoding(chunk=1, dedupe=3.0))
    assert len(calls) == 3  # 0, 2 and 4: measured from the last encoded one, not from the last
    pixels = steps[3][adapter.pixels]
    pixels.flatten(0, -2)[-1, -1] += 1.0  # one value of one patch
    _, calls = encode(family, arguments, FrameEncoding(chunk=1, dedupe=3.0))
    assert len(calls) > 3


@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_5_vl"])
def test_the_towers_attention_is_that_of_one_call(name: str) -> None:
    family, seen = BY_NAME[name], []
    model = shared_model(name)
    for encoding in (WHOLE, FrameEncoding(chunk=2)):
        with sttm.attach(model, Watcher(), layer=1):
            output, _ = encode(family, encoder_arguments(family, *ROWS), encoding)
        seen.append([video.tower_attention for video in noted_videos(output) or []])
    assert len(seen[0]) == 2
    for ours, theirs in zip(*seen, strict=True):
        torch.testing.assert_close(ours, theirs)


def moved(family: Family) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    """Three time steps of which a patch or two change; also which ones, from step to step."""
    arguments = encoder_arguments(family, (Text(4), Video(3, height=4, width=6)))
    adapter = adapter_for(shared_model(family.name))
    steps = adapter.split_steps(arguments)
    assert steps is not None
    for step in steps[1:]:
        step[adapter.pixels].copy_(steps[0][adapter.pixels])
    changed = []
    for place, corner in ((1, 3), (2, 7)):
        pixels = steps[place][adapter.pixels]
        if pixels.ndim == 2:  # rows of patches
            pixels[corner : corner + 2] += 1.0
        else:
            pixels[..., 2:4, corner - 1 : corner + 1] += 1.0
        before = adapter.step_patches(steps[place - 1])
        differ = (adapter.step_patches(steps[place]) != before).any(1)
        order = adapter.step_order(steps[place])
        changed.append(differ if order is None else differ[order])
    assert all(0 < int(each.sum()) < len(each) // 2 for each in changed)
    return arguments, changed


@pytest.mark.parametrize("name", TOWERS)
def test_patches_that_stand_still_keep_their_outputs(name: str) -> None:
    family = BY_NAME[name]
    arguments, changed = moved(family)
    adapter = adapter_for(shared_model(name))
    steps = adapter.split_steps(arguments)
    assert steps is not None
    # The dense tower, with the outputs of still patches overwritten behind every layer.
    kept: dict[int, torch.Tensor] = {}
    still: list[torch.Tensor | None] = [None]

    def overwrite(module: Any, args: Any, output: Any) -> Any:
        hidden = (output[0] if isinstance(output, tuple) else output).clone()
        if still[0] is not None:
            first = hidden.shape[-2] - len(still[0])
            mask = torch.nn.functional.pad(still[0], (first, 0), value=False)
            hidden[..., mask, :] = kept[id(module)][..., mask, :]
        kept[id(module)] = hidden
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    handles = [x.register_forward_hook(overwrite, prepend=True) for x in adapter.tower_layers()]
    expected = []
    for step, each in zip(steps, [None, *changed], strict=True):
        still[0] = None if each is None else ~each
        expected.append(encode(family, step, WHOLE)[0])
    for handle in handles:
        handle.remove()
    output, _ = encode(family, arguments, FrameEncoding(reuse=1.0))
    joined = [torch.cat(parts, -2) for parts in zip(*map(tokens, expected), strict=True)]
    for ours, theirs in zip(tokens(output), joined, strict=True):
        torch.testing.assert_close(ours, theirs)
    plain, _ = encode(family, arguments, WHOLE)
    apart = zip(tokens(output), tokens(plain), strict=True)
    assert any(not torch.allclose(ours, theirs) for ours, theirs in apart)  # it is no exact method


def tokens(output: Any) -> list[torch.Tensor]:
    """Features without LLaVA's newline, ``(tokens, C)`` each."""
    found = [t.flatten(0, -2) for t in fields(output)]
    newline = noted_videos(output)[0].num_newlines  # type: ignore[index]
    return [t[: len(t) - newline] for t in found]


@pytest.mark.parametrize("name", TOWERS)
def test_a_patch_is_encoded_when_it_has_drifted_away(name: str) -> None:
    family = BY_NAME[name]
    arguments, changed = moved(family)
    adapter = adapter_for(shared_model(name))
    steps = adapter.split_steps(arguments)
    assert steps is not None
    with PatchReuse(adapter, 0.001) as reuse:
        for step in steps:
            assert reuse.start(step)
            getattr(adapter.base, adapter.encoder)(**step, return_dict=True)
        assert not reuse.start(steps[-1])
    patches = len(changed[0])
    assert reuse.patches == 4 * patches
    assert reuse.encoded == patches + sum(int(each.sum()) for each in changed)


@pytest.mark.parametrize("name", TOWERS)
def test_the_tower_is_as_it_was(name: str) -> None:
    family, model = BY_NAME[name], shared_model(name)
    arguments, _ = moved(family)
    before, _ = encode(family, arguments, WHOLE)
    adapter = adapter_for(model)
    state = [vars(layer).copy() for layer in adapter.tower_layers()]
    hooks = [len(layer._forward_hooks) for layer in adapter.tower_layers()]
    with pytest.raises(RuntimeError, match="in the middle"), PatchReuse(adapter, 1.0):
        raise RuntimeError("in the middle")
    encode(family, arguments, FrameEncoding(reuse=1.0))
    assert [vars(layer).keys() for layer in adapter.tower_layers()] == [s.keys() for s in state]
    assert [len(layer._forward_hooks) for layer in adapter.tower_layers()] == hooks
    after, _ = encode(family, arguments, WHOLE)
    for ours, theirs in zip(fields(after), fields(before), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["glm4v", "internvl", "video_llama_3", "smolvlm"])
def test_other_towers_are_refused_by_name(name: str) -> None:
    if name not in BY_NAME:
        pytest.skip("not here")
    family = BY_NAME[name]
    with pytest.raises(UnsupportedModelError, match=type(shared_model(name)).__name__):
        encode(family, encoder_arguments(family, *ROWS), FrameEncoding(reuse=1.0))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"chunk": 0}, "chunk: got 0"),
        ({"chunk": True}, "chunk: got True"),
        ({"dedupe": -1}, "dedupe: got -1"),
        ({"dedupe": float("nan")}, "dedupe: got nan"),
        ({"reuse": 256}, "reuse: got 256"),
        ({"reuse": "8"}, "reuse: got '8'"),
    ],
)
def test_bad_options(options: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        FrameEncoding(**options)


@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_5_vl"])
def test_levels_undo_the_processors_scale(name: str) -> None:
    processor = bundle(name).processor
    frames = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    pixels = [
        processor.video_processor(videos=[(frames + value).numpy()], return_tensors="pt")
        for value in (100, 110)
    ]
    first, second = (each["pixel_values_videos"] for each in pixels)
    assert float((second - first).abs().mean()) * pixel_levels(processor) == pytest.approx(10, 0.05)


def test_a_store_tells_encodings_apart() -> None:
    tiny, frames = bundle("llava_onevision"), clip(4)
    keys = set()
    for encoding in (None, FrameEncoding(chunk=2), FrameEncoding(dedupe=4), FrameEncoding(reuse=4)):
        with sttm.VideoChat(tiny.model, tiny.processor, encoding=encoding) as chat:
            keys.add(VideoStore(None).key(chat, frames))
    assert len(keys) == 3  # chunks change nothing
