"""Answers about different videos share steps, and do not wait for videos that are being watched."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch

import sttm
from sttm import nano
from sttm.chat import stepping
from sttm.chat.stepping import DecodingBatch, prompt_of
from sttm.server.sampling import SamplingParams, TextStream, TokenSampler
from sttm.server.scheduler import Generation, Piece, Scheduler

from .conftest import Running, Sample, reduction, request

Serve = Callable[..., Running]


class Asked:
    """One answer that is being made."""

    def __init__(self, scheduler: Scheduler, video: Any, question: str, **params: Any) -> None:
        self.pieces: list[Piece] = []
        self.done = threading.Event()
        ids = prompt_of(video, [], question)
        self.wanted = Generation(video, ids, SamplingParams(**params), self.emit)
        scheduler.submit(self.wanted)

    def emit(self, piece: Piece) -> None:
        self.pieces.append(piece)
        if piece.reason is not None or piece.error is not None:
            self.done.set()

    @property
    def text(self) -> str:
        assert self.done.wait(60)
        return "".join(piece.text for piece in self.pieces)


@pytest.fixture(scope="module")
def videos(model: tuple[Any, Any], samples: list[Sample]) -> list[Any]:
    chats = [
        sttm.VideoChat(
            *model,
            reduction(keep),
            layer=None if keep == 1.0 else nano.NANO_LAYER,
            positions=nano.NANO_POSITIONS,
        )
        for keep in (None, 0.5, 0.2, 1.0)
    ]
    return [chat.watch(each.path) for chat, each in zip(chats, samples, strict=True)]


@pytest.fixture
def scheduler() -> Any:
    made = Scheduler(rows=16, kv_bytes=2**30)
    yield made
    made.close()


def test_questions_about_different_videos_share_steps(
    scheduler: Scheduler, videos: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows: list[int] = []
    step = DecodingBatch.step

    def counted(batch: DecodingBatch, tokens: Any) -> torch.Tensor:
        rows.append(len(batch))
        return step(batch, tokens)

    monkeypatch.setattr(DecodingBatch, "step", counted)
    questions = ["Which digit appears?", "How many digits appear?", "Where is the digit?"]
    pairs = [(video, question) for question in questions for video in videos]
    wanted = [video.ask(question, max_new_tokens=8).text for video, question in pairs]
    asked = [Asked(scheduler, video, question, max_tokens=8) for video, question in pairs]
    assert [each.text for each in asked] == wanted
    assert len(set(wanted)) > 3
    assert max(rows) > 2
    assert sum(rows) == sum(each.pieces[-1].tokens - 1 for each in asked)


def test_room_for_rows_and_bytes(videos: list[Any]) -> None:
    """What does not fit waits, in the order in which it came; one alone always fits."""
    for rows, kv_bytes in ((2, 2**30), (16, 1)):
        narrow = Scheduler(rows=rows, kv_bytes=kv_bytes)
        asked = [Asked(narrow, video, "Which digit appears?", max_tokens=8) for video in videos]
        assert all(each.text for each in asked)
        narrow.close()
        assert narrow.stepped_rows <= min(rows, len(videos)) * narrow.steps


def test_a_failure_is_its_own(
    scheduler: Scheduler, videos: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = stepping.feed

    def feed(video: Any, ids: torch.Tensor) -> Any:
        if video is videos[1]:
            raise RuntimeError("broken")
        return real(video, ids)

    monkeypatch.setattr("sttm.server.scheduler.feed", feed)
    asked = [Asked(scheduler, video, "Which digit appears?") for video in videos]
    assert asked[0].text
    assert asked[1].text == ""
    assert "broken" in str(asked[1].pieces[-1].error)
    assert asked[2].text


def test_closing_tells_who_waits(videos: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    made, feeding, go = Scheduler(rows=1, kv_bytes=1), threading.Event(), threading.Event()
    real = stepping.feed

    def feed(video: Any, ids: torch.Tensor) -> Any:
        feeding.set()
        assert go.wait(60)
        return real(video, ids)

    monkeypatch.setattr("sttm.server.scheduler.feed", feed)
    asked = [Asked(made, video, "Which digit appears?") for video in videos]
    assert feeding.wait(60)
    closing = threading.Thread(target=made.close)
    closing.start()
    go.set()
    closing.join(60)
    late = Asked(made, videos[0], "Which digit appears?")
    for each in (*asked, late):
        assert each.done.wait(60)
    assert [each.pieces[-1].error is None for each in (*asked, late)].count(True) <= 1
    assert "the server stops" in str(late.pieces[-1].error)


def test_a_long_watch_does_not_stop_answers(serve: Serve, samples: list[Sample]) -> None:
    """While one video is in front of the model, all questions about another one are answered."""
    running, (slow, quick, *_) = serve(), samples
    running.ask(quick.url)
    held, go = threading.Event(), threading.Event()
    prefill = sttm.VideoChat.prefill

    def prefilling(chat: Any, *args: Any, **options: Any) -> Any:
        with chat.lock:  # as in the middle of a forward pass of a watch
            held.set()
            assert go.wait(60)
            return prefill(chat, *args, **options)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor() as pool:
        patch.setattr(sttm.VideoChat, "prefill", prefilling)
        waiting = pool.submit(running.ask, slow.url, slow.question)
        assert held.wait(60)
        for _ in range(3):
            status, body = running.ask(quick.url, quick.question)
            assert status == 200
            assert body["choices"][0]["message"]["content"] == quick.answer
            assert body["sttm"]["cached"] is True
        assert not waiting.done()
        go.set()
        assert waiting.result()[1]["choices"][0]["message"]["content"] == slow.answer


def test_waiting_for_beginnings_does_not_stop_answers(serve: Serve, samples: list[Sample]) -> None:
    """Who watches several videos holds up those who want what they begin with, and nobody else."""
    running, (a, b, c, d) = serve(), samples
    running.ask(c.url)
    held, go = threading.Event(), threading.Event()
    prefill = sttm.VideoChat.prefill

    def prefilling(chat: Any, *args: Any, **options: Any) -> Any:
        with chat.lock:
            held.set()
            assert go.wait(60)
            return prefill(chat, *args, **options)

    def ask(*shown: Sample) -> tuple[int, Any]:
        parts = [part for s in shown for part in request(s.url, "")["messages"][0]["content"][:1]]
        content = [*parts, {"type": "text", "text": "Which digit appears?"}]
        body = request("", "") | {"messages": [{"role": "user", "content": content}]}
        return running.call("POST", "/v1/chat/completions", body)

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(16) as pool:
        patch.setattr(sttm.VideoChat, "prefill", prefilling)
        lists = [(a, b, c, d), (b, a)]
        waiting = [pool.submit(ask, *each) for each in lists]
        assert held.wait(60)
        while running.service.watcher.open < len(lists):
            time.sleep(0.01)
        lists += [(a,), (a, b), (a, b, c), (b,)]
        waiting += [pool.submit(ask, *each) for each in lists[2:]]
        waiting_words = [pool.submit(ask) for _ in range(4)]
        time.sleep(0.5)  # until they are looked up
        quick = pool.submit(running.ask, c.url, c.question)
        try:
            done = [each.result(timeout=30) for each in (quick, *waiting_words)]
        finally:
            go.set()
        assert [status for status, _ in done] == [200] * 5
        assert done[0][1]["choices"][0]["message"]["content"] == c.answer
        answers = [each.result() for each in waiting]
    chat = running.service._chats.get()
    for shown, (status, answer) in zip(lists, answers, strict=True):
        assert status == 200
        watched = chat.watch([each.path for each in shown], max_frames=32)
        wanted = watched.ask("Which digit appears?", max_new_tokens=8).text
        assert answer["choices"][0]["message"]["content"] == wanted
        assert answer["sttm"]["frames"] == sum(len(s.timestamps) for s in watched.sources)


class Letters:
    """A tokenizer of single letters."""

    def decode(self, ids: list[int], **options: Any) -> str:
        data = bytes(ids)
        return data.decode(errors="replace")


def streamed(text: str, *stop: str) -> list[str]:
    stream = TextStream(Letters(), stop)
    pieces = []
    for byte in text.encode():
        pieces.append(stream.push(byte))
        if stream.stopped:
            break
    return [*pieces, stream.finish()]


def test_text_comes_when_it_is_certain() -> None:
    assert streamed(" a bc ") == ["", "a", "", " b", "c", "", ""]
    assert streamed("é!") == ["", "é", "!", ""]
    assert streamed("abcd", "cx") == ["a", "b", "", "cd", ""]
    assert streamed("abcxd", "cx") == ["a", "b", "", "", ""]
    assert streamed("ab c", "c") == ["a", "b", "", "", ""]
    assert streamed("aXYb", "Y", "X") == ["a", "", ""]
    assert streamed("ab c", "c d") == ["a", "b", "", "", " c"]


def test_sampling() -> None:
    logits = torch.tensor([0.0, 3.0, 2.9, -9.0])
    ids = torch.tensor([1])
    greedy = TokenSampler(SamplingParams(), 1.0, ids)
    assert [greedy.choose(logits) for _ in range(3)] == [1, 1, 1]
    punished = TokenSampler(SamplingParams(), 1.2, ids)
    assert [punished.choose(logits) for _ in range(2)] == [2, 1]
    narrow = TokenSampler(SamplingParams(temperature=1, top_p=0.1), 1.0, ids)
    assert {narrow.choose(logits) for _ in range(50)} == {1}
    wide = TokenSampler(SamplingParams(temperature=1, top_p=0.9), 1.0, ids)
    assert {wide.choose(logits) for _ in range(200)} == {1, 2}
    hot = TokenSampler(SamplingParams(temperature=50), 1.0, ids)
    assert {hot.choose(logits) for _ in range(200)} == {0, 1, 2, 3}
