"""A video that comes in chunks is in the cache as one that was there from the start."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sttm
from sttm.chat import PrefilledVideo, VideoStream
from sttm.errors import ConfigError, IncompatibleTransformersError, UnsupportedModelError

from .tiny import bundle, clip

METHOD = sttm.STTM(spatial_threshold=0.0, temporal_threshold=0.3)
QUESTIONS = ("Which digit appears?", "What colour is it?")


def open_chat(
    method: sttm.Method | None = METHOD, name: str = "llava_onevision", **options: Any
) -> sttm.VideoChat:
    tiny = bundle(name)
    return sttm.VideoChat(tiny.model, tiny.processor, method, **options)


def assert_same(streamed: PrefilledVideo, whole: PrefilledVideo) -> None:
    """Compare everything that an answer depends on."""
    assert torch.equal(streamed.ids, whole.ids)
    assert torch.equal(streamed.prefix.head, whole.prefix.head)
    for name in ("next_position", "layer", "positions", "method", "tokens_in", "tokens_out"):
        assert getattr(streamed, name) == getattr(whole, name), name
    for mine, theirs in zip(streamed.cache.layers, whole.cache.layers, strict=True):
        assert type(mine) is type(theirs)
        torch.testing.assert_close(mine.keys, theirs.keys, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(mine.values, theirs.values, rtol=1e-4, atol=1e-4)
        for name in ("active", "removed", "crop_limit", "valid", "shift"):
            assert getattr(mine, name) == getattr(theirs, name), name


@pytest.mark.parametrize("positions", ["survived", "reassigned"])
@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("window", [None, 9])
@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_5_vl"])
def test_the_cache_and_its_answers_are_those_of_watch(
    name: str, layer: int, positions: str, window: int | None
) -> None:
    """Qwen's tokens are of two frames each: an odd one waits, and is asked about filled up."""
    chat = open_chat(name=name, layer=layer, positions=positions, system="Be brief.")
    frames = clip(9)
    stream = chat.stream(window=window, context="Two subtitles were spoken. ")
    for start, end in ((0, 1), (1, 5), (5, 9)):
        stream.push(frames[start:end])
        whole = chat.watch(frames[:end], context="Two subtitles were spoken. ")
        assert stream.watched().tokens_out == whole.tokens_out
        assert_same(stream.watched(), whole)
        for question in QUESTIONS:
            answer = stream.ask(question, max_new_tokens=4)
            assert answer.ids == whole.ask(question, max_new_tokens=4).ids
        logits = [v.answer_logits(QUESTIONS[0], answer.ids) for v in (stream.watched(), whole)]
        torch.testing.assert_close(*logits, rtol=1e-3, atol=1e-3)
    assert stream.tokens_out < stream.tokens_in


@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_5_vl"])
def test_questions_leave_the_stream_alone(name: str, tmp_path: Path) -> None:
    chat = open_chat(name=name, layer=1)
    asked, silent = chat.stream(window=3), chat.stream(window=3)
    for frame in np.split(clip(8), 8):
        asked.push(frame)
        silent.push(frame)
        talk = asked.watched().conversation()
        talk.ask(QUESTIONS[0], max_new_tokens=3)
        talk.ask(QUESTIONS[1], max_new_tokens=3)
    assert len(asked) == 8
    assert asked.watched() is asked.watched()
    assert_same(asked.watched(), silent.watched())
    asked.watched().save(tmp_path / "so-far.sttm")
    loaded = chat.load(tmp_path / "so-far.sttm")
    assert_same(loaded, silent.watched())
    assert loaded.ask("Where?").ids == asked.ask("Where?").ids


def test_what_is_final_is_fed_once() -> None:
    chat = open_chat(sttm.STTM(spatial_threshold=None, temporal_threshold=None), layer=0)
    stream = chat.stream()
    fed = []
    handle = chat.adapter.text.layers[2].register_forward_pre_hook(
        lambda _, args, kwargs: fed.append(args[0].shape[1] if args else 0), with_kwargs=True
    )
    for frame in np.split(clip(5), 5):
        stream.push(frame)
    handle.remove()
    assert sum(fed[1:]) == stream.tokens_in
    assert fed[1:] == [stream.tokens_in // 5] * 5


@pytest.mark.parametrize("positions", ["survived", "reassigned"])
def test_a_cap_holds_and_the_cache_is_that_of_the_tokens_that_are_left(positions: str) -> None:
    method = sttm.STTM(spatial_threshold=None, temporal_threshold=0.97, max_tokens=60)
    chat = open_chat(method, layer=0, positions=positions)
    stream = chat.stream(window=4)
    for frame in np.split(clip(40), 40):
        stream.push(frame)
        assert stream.tokens_out <= 60
    again = chat.stream(window=4)
    again.push(clip(40)[:16])
    again.push(clip(40)[16:])
    assert stream.tokens_out <= 60
    mine = stream.watched()
    assert mine.cache.layers[0].keys.shape[-2] == len(mine.ids) - mine.tokens_in + stream.tokens_out
    # The same tokens, prefilled anew.
    prompt = stream._prompt
    assert prompt is not None
    tokens = prompt._memory.tokens
    assert tokens is not None
    head = prompt.opened.head
    before = [layer.keys[..., head : head + len(tokens), :] for layer in mine.cache.layers]
    prompt._decoder.forget_upper(head)
    prompt._feed(prompt._decoder, tokens, 0)
    for old, layer in zip(before, stream.watched().cache.layers, strict=True):
        new = layer.keys[..., head : head + len(tokens), :]
        torch.testing.assert_close(old, new, rtol=1e-4, atol=1e-4)


def test_too_many_open_tokens_are_closed_early() -> None:
    method = sttm.STTM(spatial_threshold=None, temporal_threshold=0.999, max_tokens=60)
    stream = open_chat(method, layer=0, positions="reassigned").stream(window=None)
    for _ in range(6):
        stream.push(clip(16))
        assert 0 < stream.tokens_out <= 60
    assert stream.ask("Where?", max_new_tokens=2).ids


@pytest.mark.parametrize("name", ["qwen3_vl", "qwen3_5", "internvl"])
def test_other_prompts_are_refused(name: str) -> None:
    tiny = bundle(name)
    chat = sttm.VideoChat(tiny.model, tiny.processor, METHOD)
    with pytest.raises(UnsupportedModelError, match="for a stream, expected a model"):
        chat.stream().push(clip(4))


def test_frames_of_another_size_are_refused() -> None:
    wide, odd = np.zeros((2, 12, 20, 3), np.uint8), np.zeros((1, 12, 12, 3), np.uint8)
    for first, then, unit in ((clip(2), wide, "tokens"), (odd, wide, "pixels")):
        stream = open_chat(name="qwen2_5_vl").stream()
        stream.push(first)
        with pytest.raises(ConfigError, match=rf"frames: got \d+x\d+ {unit} a frame behind"):
            stream.push(then)


def test_frames_in_front_of_a_fault_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    chat, told = open_chat(name="qwen2_5_vl"), open_chat(name="qwen2_5_vl").stream()
    stream = chat.stream()
    frames = clip(40)
    stream.push(frames[:1])
    push, calls = stream._push, []

    def fails(*given: Any) -> Any:
        calls.append(given)
        if len(calls) == 2:
            raise ConfigError("frames: got others.")
        return push(*given)

    monkeypatch.setattr(stream, "_push", fails)
    with pytest.raises(ConfigError, match="got others"):
        stream.push(frames[1:])
    monkeypatch.undo()
    assert len(stream) == 32
    told.push(frames[:32])
    assert stream.watched().sources == told.watched().sources
    assert_same(stream.watched(), told.watched())


def test_a_model_that_places_longer_videos_otherwise_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chat = open_chat(name="qwen2_5_vl")
    stream = chat.stream()
    stream.push(clip(4))
    kind = type(chat.adapter.base)
    place = kind.get_vision_position_ids

    def placed(self: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        ids: torch.Tensor = place(self, *args, **kwargs)
        ids[1, 9:] += 1  # the rows of the second step
        return ids

    monkeypatch.setattr(kind, "get_vision_position_ids", placed)
    with pytest.raises(IncompatibleTransformersError, match="moves more than the time"):
        stream.watched()


def test_bad_input_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"expected sttm.STTM with thresholds"):
        open_chat(None).stream()
    with pytest.raises(ConfigError, match=r"keep: got 0.3 for a stream"):
        open_chat(sttm.STTM(keep=0.3)).stream()
    with pytest.raises(ConfigError, match="positions: got 'merged' for a stream"):
        open_chat(positions="merged").stream()
    with pytest.raises(ConfigError, match="window: got 0"):
        open_chat().stream(window=0).push(clip(1))
    with pytest.raises(ConfigError, match="fps=0"):
        open_chat().stream(fps=0)
    stream: VideoStream = open_chat().stream()
    with pytest.raises(ConfigError, match="without frames"):
        stream.ask("Where?")
    with pytest.raises(ConfigError, match="expected \\(T, H, W, 3\\)"):
        stream.push(clip(3)[0])
    with pytest.raises(ConfigError, match="timestamps: got 2 for 3 frames"):
        stream.push(clip(3), [0.0, 1.0])
    assert stream.tokens_in == stream.tokens_out == len(stream) == 0
