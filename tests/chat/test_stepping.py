"""Answers that grow together are what each would be alone, whoever comes and goes."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

import sttm
from sttm.chat.stepping import DecodingBatch, FedQuestion, feed, prompt_of
from tests.models.methods import PairMerge

from .tiny import FAMILIES, bundle, clip

QUESTIONS = ("Which digit appears?", "Where?", "What colour is the digit at the end of the video?")
LENGTH = 6


def watched(name: str, layer: int | None, positions: str = "auto") -> list[Any]:
    """Watch three videos of different lengths, each reduced in another way."""
    tiny = bundle(name)
    methods: list[Any] = [PairMerge(), sttm.STTM(keep=0.3), sttm.STTM(keep=0.7)]
    chats = [
        sttm.VideoChat(
            tiny.model,
            tiny.processor,
            None if layer is None else method,
            layer=layer,
            positions="auto" if layer is None else positions,
        )
        for method in methods
    ]
    return [chat.watch(clip(n, seed=n)) for chat, n in zip(chats, (8, 4, 14), strict=True)]


def fed(video: Any, question: str, history: Sequence[tuple[str, str]] = ()) -> FedQuestion:
    return feed(video, prompt_of(video, history, question))


def alone(videos: Sequence[Any]) -> list[list[int]]:
    return [
        list(video.ask(question, max_new_tokens=LENGTH, eos_token_id=-1).ids)
        for video, question in zip(videos, QUESTIONS, strict=True)
    ]


def together(videos: Sequence[Any], starts: Sequence[int]) -> list[list[int]]:
    """Decode greedily; question i joins at step starts[i] and leaves with its last token."""
    batch, answers = DecodingBatch(), [list[int]() for _ in videos]
    rows: list[int] = []
    for step in range(max(starts) + LENGTH):
        if rows:
            logits = batch.step([answers[row][-1] for row in rows])
            for row, each in zip(rows, logits, strict=True):
                answers[row].append(int(each.argmax()))
        going = [place for place, row in enumerate(rows) if len(answers[row]) < LENGTH]
        batch.keep(going)
        rows = [rows[place] for place in going]
        for row, video in enumerate(videos):
            if starts[row] == step:
                new = fed(video, QUESTIONS[row])
                answers[row].append(int(new.logits.argmax()))
                assert batch.takes(new)
                batch.join(new)
                rows.append(row)
    assert not rows
    return answers


@pytest.mark.parametrize("starts", [(0, 0, 0), (0, 2, 4), (3, 0, 1)])
@pytest.mark.parametrize("layer", [0, 1, None])
@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "qwen3_5"])
def test_a_batch_of_different_videos(
    name: str, layer: int | None, starts: tuple[int, int, int]
) -> None:
    videos = watched(name, layer)
    assert together(videos, starts) == alone(videos)


@pytest.mark.parametrize("positions", ["survived", "merged", "reassigned"])
def test_positions_are_every_rows_own(positions: str) -> None:
    videos = watched("qwen2_5_vl", 1, positions)
    assert together(videos, (0, 1, 3)) == alone(videos)


def test_padding_goes_with_the_row_that_needed_it() -> None:
    videos = watched("llava_onevision", 1)
    batch = DecodingBatch()
    for video in videos:
        batch.join(fed(video, QUESTIONS[0]))
    wide = batch.kv_bytes
    batch.keep([1])
    single = DecodingBatch()
    single.join(fed(videos[1], QUESTIONS[0]))
    assert batch.kv_bytes == single.kv_bytes < wide / 3
    batch.keep([])
    assert (len(batch), batch.kv_bytes) == (0, 0)


def test_a_video_stays_as_it_was() -> None:
    (video, *_) = watched("llava_onevision", 1)
    before, wanted = video.entries, video.ask(QUESTIONS[0], max_new_tokens=LENGTH).ids
    batch = DecodingBatch()
    for _ in range(2):
        batch.join(fed(video, QUESTIONS[0]))
    batch.step([1, 2])
    assert video.entries == before
    assert video.ask(QUESTIONS[0], max_new_tokens=LENGTH).ids == wanted


def test_a_recurrent_state_is_a_batch_of_its_own() -> None:
    first, second, _ = watched("qwen3_5", 1)
    batch = DecodingBatch()
    new = fed(first, QUESTIONS[0])
    batch.join(new)
    assert not batch.takes(fed(second, QUESTIONS[1]))
    answer = [int(new.logits.argmax())]
    while len(answer) < LENGTH:
        answer.append(int(batch.step(answer[-1:])[0].argmax()))
    wanted = first.ask(QUESTIONS[0], max_new_tokens=LENGTH, eos_token_id=-1)
    assert answer == list(wanted.ids)


def test_other_layers_are_another_batch() -> None:
    one, other = watched("llava_onevision", 1)[0], watched("llava_onevision", 0)[0]
    batch = DecodingBatch()
    batch.join(fed(one, QUESTIONS[0]))
    assert not batch.takes(fed(other, QUESTIONS[0]))


def test_earlier_turns_count() -> None:
    (video, *_) = watched("llava_onevision", 1)
    talk = video.conversation()
    talk.ask("Where?", max_new_tokens=3)
    wanted = talk.ask("When?", max_new_tokens=1).ids[0]
    answer = talk.history[0][1]
    assert int(fed(video, "When?", [("Where?", answer)]).logits.argmax()) == wanted


def test_steps_do_not_wait_for_the_lock() -> None:
    import threading

    (video, *_) = watched("llava_onevision", 1)
    done: list[torch.Tensor] = []
    worker = threading.Thread(target=lambda: done.append(fed(video, QUESTIONS[0]).logits))
    with video.chat.lock:
        worker.start()
        worker.join(timeout=60)
        assert len(done) == 1
