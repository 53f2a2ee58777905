"""A video that comes in chunks is in the cache as one that was there from the start."""

import itertools
import re
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import sttm
from sttm import checkpoints, nano
from sttm.chat import PrefilledVideo, VideoStream
from sttm.errors import ConfigError, IncompatibleTransformersError, UnsupportedModelError
from sttm.models.halves import FedTokens, SplitDecoder
from sttm.video import Sampling
from sttm.video.decode import video_of_frames
from tests.checkpoints.original import write_original
from tests.cli.marks import needs_nano
from tests.models.families import shared_model

from .tiny import bundle, clip

METHOD = sttm.STTM(spatial_threshold=0.0, temporal_threshold=0.3)
STREAMING = (
    "llava_onevision",
    "llava_next_video",
    "qwen2_5_vl",
    "qwen3_vl",
    "glm4v",
    "internvl",
)
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


def assert_streams(
    chat: sttm.VideoChat, window: int | None, sizes: Sequence[int], first: int = 1
) -> None:
    """Push frames, a number at a time, and compare with `watch` from the first number on."""
    frames = clip(sum(sizes))
    stream = chat.stream(window=window, context="Two subtitles were spoken. ")
    for end in itertools.accumulate(sizes):
        stream.push(frames[len(stream) : end])
        if end < first:
            assert stream.ask(QUESTIONS[0], max_new_tokens=2).ids
            continue
        whole = chat.watch(frames[:end], context="Two subtitles were spoken. ")
        assert stream.watched().tokens_out == whole.tokens_out
        assert_same(stream.watched(), whole)
        for question in QUESTIONS:
            answer = stream.ask(question, max_new_tokens=4)
            assert answer.ids == whole.ask(question, max_new_tokens=4).ids
        logits = [v.answer_logits(QUESTIONS[0], answer.ids) for v in (stream.watched(), whole)]
        torch.testing.assert_close(*logits, rtol=1e-3, atol=1e-3)
        talks = stream.watched().conversation(), whole.conversation()
        for question in QUESTIONS:
            mine, theirs = (talk.ask(question, max_new_tokens=3) for talk in talks)
            assert mine.ids == theirs.ids
    assert stream.tokens_out < stream.tokens_in


@pytest.mark.parametrize("positions", ["survived", "reassigned"])
@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("window", [None, 9])
@pytest.mark.parametrize("name", STREAMING)
def test_the_cache_and_its_answers_are_those_of_watch(
    name: str, layer: int, positions: str, window: int | None
) -> None:
    """Qwen's tokens are of two frames each: an odd one waits, and is asked about filled up."""
    chat = open_chat(name=name, layer=layer, positions=positions, system="Be brief.")
    # To `watch` a single frame of InternVL is an image, which it leaves alone.
    assert_streams(chat, window, (1, 4, 4), first=2 if name == "internvl" else 1)


@pytest.mark.parametrize("name", ["qwen3_vl", "glm4v", "internvl"])
def test_text_between_frames_of_any_number_at_a_time(name: str) -> None:
    """Timestamps and frame numbers get more digits; DeepStack enters on both sides of layer 1."""
    chat = open_chat(name=name, layer=1, positions="reassigned")
    assert_streams(chat, None, (2, 1, 3, 7, 1), first=2)


@pytest.mark.parametrize("newline", ["no_token", "one_token", "frame", "grid"])
@pytest.mark.parametrize("positions", ["survived", "reassigned"])
def test_newline_tokens_between_rows_and_frames(
    newline: str, positions: str, tmp_path: Path
) -> None:
    original = str(write_original(tmp_path).folder)
    model, processor = checkpoints.load(original, newline=newline, dtype="float32")
    model.config.add_time_instruction = False  # a stream does not tell how long it is
    chat = sttm.VideoChat(model, processor, METHOD, layer=1, positions=positions)
    assert_streams(chat, None, (1, 3, 2))


@pytest.mark.parametrize("name", ["qwen3_vl", "glm4v"])
def test_frames_are_told_their_own_times(name: str) -> None:
    chat = open_chat(name=name, layer=1)
    times = (0.0, 0.4, 3.7, 4.25, 9.0, 12.5)
    stream = chat.stream()
    stream.push(clip(6)[:3], times[:3])
    stream.push(clip(6)[3:], times[3:])
    whole = chat.watch(replace(video_of_frames(clip(6), Sampling(fps=1.0)), timestamps=times))
    assert_same(stream.watched(), whole)


def test_text_that_depends_on_the_whole_video_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chat = open_chat(name="internvl")
    stream = chat.stream()
    stream.push(clip(4))
    kind = type(chat.processor)
    write = kind.replace_video_token

    def counted(self: Any, video_inputs: Any, *given: Any, **named: Any) -> str:
        frames = len(video_inputs["pixel_values_videos"][0])
        return str(write(self, video_inputs, *given, **named)).replace(":", f" of {frames}:")

    monkeypatch.setattr(kind, "replace_video_token", counted)
    with pytest.raises(IncompatibleTransformersError, match="into a whole video"):
        stream.watched()
    with pytest.raises(UnsupportedModelError, match="tells how long it is"):
        chat.stream().push(clip(4))


@pytest.mark.parametrize("name", STREAMING)
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


@pytest.mark.filterwarnings("ignore::sttm.errors.ContextWarning")
@pytest.mark.parametrize("positions", ["survived", "reassigned"])
@pytest.mark.parametrize("name", STREAMING)
def test_a_cap_holds_and_the_cache_is_that_of_the_tokens_that_are_left(
    name: str, positions: str
) -> None:
    """At every moment; text whose frames are gone goes with them."""
    method = sttm.STTM(spatial_threshold=None, temporal_threshold=0.97, max_tokens=60)
    chat = open_chat(method, name=name, layer=0, positions=positions)
    stream = chat.stream(window=4)
    sizes = []
    for frame in np.split(clip(40), 40):
        stream.push(frame)
        assert stream.tokens_out <= 60
        prompt = stream._prompt
        if prompt is not None:
            held = prompt._decoder.upper.get_seq_length()
            sizes.append(held - prompt.layout.head)
            assert sizes[-1] <= 60 + len(prompt._text)
    mine = stream.watched()
    assert {x.keys.shape[-2] for x in mine.cache.layers} == {
        len(mine.ids) - mine.tokens_in + mine.tokens_out
    }
    assert mine.tokens_out == stream.tokens_out <= 60
    assert len(mine.ask(QUESTIONS[0], max_new_tokens=2).ids) == 2
    # The same tokens and text, prefilled anew.
    prompt = stream._prompt
    assert prompt is not None
    tokens, head = prompt._memory.tokens, prompt.layout.head
    assert tokens is not None
    assert len(prompt._text) <= max(map(len, prompt.layout.texts)) * len(tokens)
    text = prompt._text[: prompt._texts_before(tokens)]
    there = slice(head, head + len(tokens) + len(text))
    before = [layer.keys[..., there, :] for layer in mine.cache.layers]
    prompt._decoder.forget_upper(head)
    prompt._feed(prompt._decoder, tokens, text, 0)
    for old, layer in zip(before, stream.watched().cache.layers, strict=True):
        torch.testing.assert_close(old, layer.keys[..., there, :], rtol=1e-4, atol=1e-4)


@needs_nano
@pytest.mark.parametrize("seed", [3, 7])
def test_at_no_moment_are_there_more_tokens_than_the_cap_and_the_needle_is_found(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pushed at once or one by one, asked on the way; counted whenever a layer is fed."""
    method = sttm.STTM(spatial_threshold=0.99, temporal_threshold=0.94)
    (free, chat) = (
        sttm.VideoChat(*nano.load(), each, layer=nano.NANO_LAYER, positions=nano.NANO_POSITIONS)
        for each in (method, replace(method, max_tokens=340))
    )
    held, feed = list[int](), SplitDecoder.feed_upper

    def counted(decoder: SplitDecoder, tokens: FedTokens, positions: torch.Tensor) -> None:
        feed(decoder, tokens, positions)
        if not held or bool(tokens.is_video.any()):  # the head at first, and no tail
            held.append(decoder.upper.get_seq_length())

    monkeypatch.setattr(SplitDecoder, "feed_upper", counted)
    made = nano.make_clip(seed=seed, frames=64, num_needles=1)
    stream = chat.stream(window=2)
    for start, end in ((0, 1), (1, 30), (30, 32), (32, 64)):
        stream.push(made.frames[start:end])
        stream.watched()
    assert max(held) - held[0] <= 340
    uncapped = free.stream(window=2)
    uncapped.push(made.frames)
    assert uncapped.tokens_out > 2 * 340
    assert stream.ask("Which digit appears?").text == str(made.needles[0].digit)


def test_too_many_open_tokens_are_closed_early() -> None:
    method = sttm.STTM(spatial_threshold=None, temporal_threshold=0.999, max_tokens=60)
    stream = open_chat(method, layer=0, positions="reassigned").stream(window=None)
    for _ in range(6):
        stream.push(clip(16))
        assert 0 < stream.tokens_out <= 60
    assert stream.ask("Where?", max_new_tokens=2).ids


def test_recurrent_layers_are_refused() -> None:
    chat = open_chat(name="qwen3_5")
    with pytest.raises(UnsupportedModelError, match="some of its layers have linear_attention"):
        chat.stream()


@pytest.mark.parametrize(
    ("name", "why"),
    [("video_llama_3", "drops tokens that repeat"), ("smolvlm", "tells how long it is")],
)
def test_families_whose_prompt_cannot_grow_are_refused(name: str, why: str) -> None:
    model = shared_model(name)
    processor = bundle("llava_onevision").processor
    with pytest.raises(UnsupportedModelError, match=why):
        sttm.VideoChat(model, processor, METHOD).stream()


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


@pytest.mark.parametrize("cap", [None, 100])
@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("name", STREAMING)
def test_an_interrupted_push_leaves_the_stream_as_it_was(
    name: str, at: int, cap: int | None
) -> None:
    """In a layer in front of the reduction or behind it: nothing is lost, and nothing is twice."""
    method = METHOD if cap is None else replace(METHOD, spatial_threshold=None, max_tokens=cap)
    chat = open_chat(method, name=name, layer=1 if cap is None else 0)
    stream, told = chat.stream(window=2), chat.stream(window=2)
    for part in np.split(clip(12)[:8], 4):
        stream.push(part)
        told.push(part)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    handle = chat.adapter.text.layers[at].register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        stream.push(clip(12)[8:10])
    handle.remove()
    assert len(stream) == 8
    for each in (stream, told):
        each.push(clip(12)[8:10])
        each.push(clip(12)[10:])
    assert stream.watched().sources == told.watched().sources
    assert_same(stream.watched(), told.watched())


def test_frames_that_are_pushed_while_another_thread_asks_are_not_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stream = open_chat().stream()
    stream.push(clip(2))
    asking, rest = threading.Event(), stream._prefill_rest

    def slowly(*given: Any) -> PrefilledVideo:
        asking.set()
        pusher.join(0.3)  # it waits for this thread, with a question about the frames before it
        return rest(*given)

    def push() -> None:
        asking.wait()
        stream.push(clip(2))

    pusher = threading.Thread(target=push)
    monkeypatch.setattr(stream, "_prefill_rest", slowly)
    pusher.start()
    before = stream.watched()
    pusher.join()
    assert stream.watched().tokens_in == stream.tokens_in == 2 * before.tokens_in


def test_a_frame_that_waits_is_no_view_of_the_callers_array() -> None:
    chat = open_chat(name="qwen2_5_vl")
    stream, told = chat.stream(), chat.stream()
    buffer = np.empty_like(clip(1))
    for frame in np.split(clip(4), 4):
        buffer[:] = frame
        stream.push(buffer)
    told.push(clip(4))
    assert_same(stream.watched(), told.watched())


def test_times_go_on_behind_those_that_were_given() -> None:
    stream = open_chat().stream(fps=2.0)
    stream.push(clip(1))
    stream.push(clip(2), [3.1, 3.1])
    stream.push(clip(2))
    stream.push(clip(1), np.array([9.0]).tolist())
    assert stream.watched().sources[0].timestamps == (0.0, 3.1, 3.1, 3.5, 4.0, 9.0)


def test_whole_seconds_are_told_at_any_rate() -> None:
    """GLM's processor cuts the fraction off: a little less than 3 seconds would be 2."""
    chat = open_chat(name="glm4v")
    for rate in (1.0, 3.0, 29.97):
        stream = chat.stream(fps=rate)
        times = [float(second) for second in range(0, 40, 2)]
        for second in times:
            stream.push(clip(2), [second, second])
        told = chat.processor.tokenizer.decode(stream.watched().ids)
        assert re.findall(r"<\|end_of_image\|>(\d+)", told) == [f"{int(x)}" for x in times]


@pytest.mark.parametrize(
    "times", [(2.0, float("nan")), (2.0, float("inf")), (4.0, 3.0), (0.5, 2.0), ("a", "b")]
)
def test_times_that_are_none_are_refused(times: Any) -> None:
    stream = open_chat(name="qwen3_vl").stream()
    with pytest.raises(ConfigError, match=r"timestamps: got \[-1.0\]"):
        stream.push(clip(1), [-1.0])
    stream.push(clip(2))
    with pytest.raises(ConfigError, match=r"timestamps: got .* behind .* expected finite seconds"):
        stream.push(clip(2), times)
    assert len(stream) == 2


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
        open_chat().stream(window=0)
    for context, why in ((5, "got int, expected text"), ("<|video_pad|>", "in the place of pic")):
        with pytest.raises(ConfigError, match=f"context: got .*{why}|context: {why}"):
            open_chat().stream(context=context)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="fps=0"):
        open_chat().stream(fps=0)
    stream: VideoStream = open_chat().stream()
    with pytest.raises(ConfigError, match="without frames"):
        stream.ask("Where?")
    with pytest.raises(ConfigError, match="expected \\(T, H, W, 3\\)"):
        stream.push(clip(3)[0])
    with pytest.raises(ConfigError, match="video: got list, expected an array"):
        stream.push([clip(1)])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="timestamps: got 2 for 3 frames"):
        stream.push(clip(3), [0.0, 1.0])
    assert stream.tokens_in == stream.tokens_out == len(stream) == 0
