"""A video is read once; every answer equals that of a prompt from scratch."""

import contextlib
from typing import Any

import numpy as np
import pytest

import sttm
from sttm.chat.prompt import render
from sttm.errors import ConfigError
from sttm.video import Sampling, Video
from tests.models.methods import KeepEvery, PairMerge

from .tiny import FAMILIES, Bundle, bundle, clip

QUESTIONS = ("Which digit appears?", "What colour is it?", "And where?")
METHODS = (None, PairMerge(), sttm.STTM(spatial_threshold=0.5, temporal_threshold=0.9))


def prompt(
    tiny: Bundle,
    frames: Any,
    history: list[tuple[str, str]],
    question: str,
    chat: sttm.VideoChat,
    context: str = "",
) -> dict[str, Any]:
    """Write one prompt that holds everything, as the processor alone does it."""
    text = render(tiny.processor, chat.system, ((None, context),), history, question)
    count = len(frames)
    metadata = {"fps": 1.0, "total_num_frames": count, "frames_indices": list(range(count))}
    inputs = tiny.processor(
        text=[text],
        videos=[frames],
        video_metadata=[metadata],
        do_sample_frames=False,
        return_tensors="pt",
    )
    return {name: v for name, v in inputs.items() if name != "video_metadata"}


def from_scratch(
    tiny: Bundle,
    frames: Any,
    history: list[tuple[str, str]],
    question: str,
    chat: sttm.VideoChat,
    context: str = "",
) -> tuple[int, ...]:
    """Answer with one prompt that holds everything, by ``generate`` alone."""
    known = prompt(tiny, frames, history, question, chat, context)
    attached: Any = contextlib.nullcontext()
    if chat.method is not None:
        attached = sttm.attach(tiny.model, chat.method, layer=chat.layer, positions=chat.positions)
    with attached:
        out = tiny.model.generate(**known, max_new_tokens=6, do_sample=False)
    return tuple(out[0, known["input_ids"].shape[1] :].tolist())


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: "all" if m is None else m.name)
@pytest.mark.parametrize("name", FAMILIES)
def test_answers_equal_a_prompt_from_scratch(name: str, method: Any, layer: int) -> None:
    tiny, frames = bundle(name), clip()
    chat = sttm.VideoChat(tiny.model, tiny.processor, method, layer=layer)
    video = chat.watch(frames)
    for question in QUESTIONS:
        answer = video.ask(question, max_new_tokens=6)
        assert answer.ids == from_scratch(tiny, frames, [], question, chat)
        assert answer.prompt_tokens <= len(question) + 40


@pytest.mark.parametrize("name", FAMILIES)
def test_a_conversation_equals_its_prompt_from_scratch(name: str) -> None:
    tiny, frames = bundle(name), clip()
    chat = sttm.VideoChat(tiny.model, tiny.processor, PairMerge(), layer=1, system="Be brief.")
    talk = chat.watch(frames, context="Two subtitles were spoken. ").conversation()
    for question in QUESTIONS:
        history = list(talk.history)
        answer = talk.ask(question, max_new_tokens=6)
        expected = from_scratch(
            tiny, frames, history, question, chat, "Two subtitles were spoken. "
        )
        assert answer.ids == expected
    assert [question for question, _ in talk.history] == list(QUESTIONS)


@pytest.mark.parametrize("name", FAMILIES)
def test_videos_and_conversations_stay_apart(name: str) -> None:
    tiny = bundle(name)
    chat = sttm.VideoChat(tiny.model, tiny.processor, KeepEvery(3), layer=1)
    alone = [chat.watch(clip(t, seed=t)).ask(QUESTIONS[0], max_new_tokens=6).ids for t in (6, 10)]
    short, long = chat.watch(clip(6, seed=6)), chat.watch(clip(10, seed=10))
    first, second = short.conversation(), long.conversation()
    assert first.ask(QUESTIONS[0], max_new_tokens=6).ids == alone[0]
    assert second.ask(QUESTIONS[0], max_new_tokens=6).ids == alone[1]
    again = short.conversation()
    first.ask(QUESTIONS[1], max_new_tokens=6)
    assert again.ask(QUESTIONS[0], max_new_tokens=6).ids == alone[0]
    assert short.ask(QUESTIONS[0], max_new_tokens=6).ids == alone[0]


def test_a_later_turn_pays_only_for_itself() -> None:
    tiny = bundle("llava_onevision")
    video = sttm.VideoChat(tiny.model, tiny.processor, PairMerge()).watch(clip())
    talk = video.conversation()
    talk.ask(QUESTIONS[0], max_new_tokens=4)
    turn = f"\n<|im_start|>user\n{QUESTIONS[1]}<|im_end|>\n<|im_start|>assistant\n"
    # The answer's last token was never fed to the model; it and the turn are new.
    paid = len(tiny.processor.tokenizer(turn)["input_ids"])
    assert talk.ask(QUESTIONS[1], max_new_tokens=4).prompt_tokens <= paid + 12


@pytest.mark.parametrize("name", FAMILIES)
def test_beams_leave_the_conversation_usable(name: str) -> None:
    tiny = bundle(name)
    chat = sttm.VideoChat(tiny.model, tiny.processor, PairMerge(), layer=1)
    video = chat.watch(clip())
    talk = video.conversation()
    talk.ask(QUESTIONS[0], max_new_tokens=4, num_beams=3)
    history = list(talk.history)
    answer = talk.ask(QUESTIONS[1], max_new_tokens=6)
    assert answer.ids == from_scratch(tiny, clip(), history, QUESTIONS[1], chat)


def test_numbers_of_a_watched_video() -> None:
    tiny = bundle("llava_onevision")
    full = sttm.VideoChat(tiny.model, tiny.processor).watch(clip())
    half = sttm.VideoChat(tiny.model, tiny.processor, KeepEvery(2), layer=0).watch(clip())
    assert (full.tokens_in, full.tokens_out, full.retention) == (72, 72, 1.0)
    assert (half.tokens_in, half.tokens_out, half.retention) == (72, 36, 0.5)
    assert half.kv_bytes < full.kv_bytes
    assert half.reports[0].layer == 0
    assert min(half.timings.encode, half.timings.prefill) > 0
    answer = half.ask(QUESTIONS[0], max_new_tokens=4)
    assert 0 < answer.ttft <= answer.seconds


def test_progress_tells_every_stage() -> None:
    tiny = bundle("llava_onevision")
    told: list[tuple[str, int, int]] = []
    chat = sttm.VideoChat(tiny.model, tiny.processor, PairMerge())
    chat.watch(clip(), progress=lambda *step: told.append(step))
    assert told == [("encode", 0, 1), ("encode", 1, 1), ("prefill", 0, 1), ("prefill", 1, 1)]


def test_a_read_video_keeps_its_times() -> None:
    tiny, frames = bundle("qwen3_vl"), clip(4)
    read = Video(
        frames=frames,
        timestamps=(0.0, 2.0, 4.0, 6.0),
        indices=(0, 60, 120, 180),
        duration=6.5,
        fps=30.0,
        total_frames=195,
        path="made.mp4",
        sampling=Sampling(fps=0.5),
    )
    video = sttm.VideoChat(tiny.model, tiny.processor, PairMerge()).watch(read)
    assert video.source.timestamps == read.timestamps
    assert "<1.0 seconds>" in tiny.processor.tokenizer.decode(video.ids)


def test_a_question_aware_method_is_refused() -> None:
    class Peeking(KeepEvery):
        query_aware = True

    tiny = bundle("llava_onevision")
    with pytest.raises(ConfigError, match="drops tokens by the question"):
        sttm.VideoChat(tiny.model, tiny.processor, Peeking())


@pytest.mark.parametrize(
    "frames",
    [np.zeros((0, 4, 4, 3), np.uint8), np.zeros((2, 4, 4), np.uint8), np.zeros((2, 4, 4, 3))],
)
def test_frames_of_a_wrong_kind_are_refused(frames: Any) -> None:
    tiny = bundle("llava_onevision")
    with pytest.raises(ConfigError, match=r"expected \(T, H, W, 3\) uint8 RGB"):
        sttm.VideoChat(tiny.model, tiny.processor).watch(frames)
