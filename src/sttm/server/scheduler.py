"""One thread that answers: it feeds new questions, and takes a step with all open answers."""

import contextlib
import itertools
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from sttm.chat import PrefilledVideo
from sttm.chat.stepping import DecodingBatch, FedQuestion, feed
from sttm.server.errors import ApiError
from sttm.server.sampling import SamplingParams, TextStream, TokenSampler

_FEEDS_PER_STEP = 4  # questions that are fed between two steps: the open answers wait meanwhile


@dataclass(frozen=True)
class Piece:
    """A part of an answer.

    Args:
        text: what came; may be empty.
        reason: why the answer ended, as OpenAI calls it; None if it goes on.
        tokens: of the answer so far.
        known: prompt tokens that were in the video's cache.
        error: what went wrong; the answer ends with it.
    """

    text: str = ""
    reason: str | None = None
    tokens: int = 0
    known: int = 0
    error: Exception | None = None


@dataclass(eq=False)
class Generation:
    """An answer to be made.

    Args:
        video: that was watched.
        ids: ``(n,)`` int64, the whole prompt.
        params: how tokens are chosen.
        emit: called with every piece, in the scheduler's thread; must return at once.
        cancelled: set by whoever does not want the answer any more.
    """

    video: PrefilledVideo
    ids: torch.Tensor
    params: SamplingParams
    emit: Callable[[Piece], None]
    cancelled: threading.Event = field(default_factory=threading.Event)


class _Answer:
    """An answer that is open, as a row of a batch."""

    def __init__(self, wanted: Generation, fed: FedQuestion) -> None:
        model, tokenizer = wanted.video.chat.adapter.model, wanted.video.chat.processor.tokenizer
        ends = model.generation_config.eos_token_id
        self.wanted = wanted
        self._known = fed.known
        self._ends = {ends} if isinstance(ends, int) else set(ends or ())
        penalty = model.generation_config.repetition_penalty or 1.0
        self._sampler = TokenSampler(wanted.params, penalty, fed.ids)
        self._text = TextStream(tokenizer, wanted.params.stop)
        self.last = -1

    def take(self, logits: torch.Tensor) -> bool:
        """Choose a token, tell what is new; return whether the answer goes on."""
        if self.wanted.cancelled.is_set():
            return False
        self.last = self._sampler.choose(logits)
        text = self._text.push(self.last)
        reason = None
        if self.last in self._ends or self._text.stopped:
            reason = "stop"
        elif len(self._text.ids) >= self.wanted.params.max_tokens:
            reason = "length"
        if reason is not None:
            text += self._text.finish()
        self.wanted.emit(Piece(text, reason, len(self._text.ids), self._known))
        return reason is None


@dataclass
class _Group:
    """Answers that are decoded together, row by row."""

    batch: DecodingBatch = field(default_factory=DecodingBatch)
    answers: list[_Answer] = field(default_factory=list)

    def keep(self, rows: list[int]) -> None:
        self.batch.keep(rows)
        self.answers = [self.answers[row] for row in rows]


class Scheduler:
    """Answers questions about watched videos, many at a time.

    Questions about different videos share each step of the model. New ones join between two steps.
    Watching goes on in other threads, beside it.

    Args:
        rows: most answers in one batch.
        kv_bytes: most bytes of keys and values that all batches hold, padding included.
    """

    def __init__(self, *, rows: int, kv_bytes: int) -> None:
        self._rows = rows
        self._kv_bytes = kv_bytes
        self._new: queue.SimpleQueue[Generation | None] = queue.SimpleQueue()
        self._waiting: list[Generation] = []
        self._groups: list[_Group] = []
        self._closed = threading.Event()
        self.steps = self.stepped_rows = 0
        self._thread = threading.Thread(target=self._run, name="sttm-answers", daemon=True)
        self._thread.start()

    def submit(self, wanted: Generation) -> None:
        """Begin an answer; its pieces come by ``wanted.emit``."""
        self._new.put(wanted)
        if self._closed.is_set():
            self._refuse_new()

    @property
    def open(self) -> int:
        """Answers that are being made or wait for it."""
        rows = sum(len(group.answers) for group in self._groups)
        return self._new.qsize() + len(self._waiting) + rows

    def close(self) -> None:
        """End the thread; answers that are open get an error."""
        self._new.put(None)
        self._thread.join()

    def _run(self) -> None:
        while self._receive():
            self._feed_some()
            for group in list(self._groups):
                self._step(group)
            self._groups = [group for group in self._groups if group.answers]
        self._closed.set()
        open_rows = (answer.wanted for group in self._groups for answer in group.answers)
        for wanted in itertools.chain(self._waiting, open_rows):
            wanted.emit(Piece(error=_stopping()))
        self._refuse_new()

    def _refuse_new(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                wanted = self._new.get_nowait()
                if wanted is not None:
                    wanted.emit(Piece(error=_stopping()))

    def _receive(self) -> bool:
        """Take what has come, or wait for it if there is nothing to do; False: the thread ends."""
        while True:
            try:
                found = self._new.get(block=not self._groups and not self._waiting)
            except queue.Empty:
                return True
            if found is None:
                return False
            self._waiting.append(found)

    def _feed_some(self) -> None:
        for _ in range(_FEEDS_PER_STEP):
            rows = sum(len(group.answers) for group in self._groups)
            held = sum(group.batch.kv_bytes for group in self._groups)
            if not self._waiting or rows >= self._rows:
                return
            if rows and held + self._waiting[0].video.kv_bytes > self._kv_bytes:
                return  # the first come waits for room; nobody overtakes it
            self._feed(self._waiting.pop(0))

    def _feed(self, wanted: Generation) -> None:
        if wanted.cancelled.is_set():
            return
        try:
            fed = feed(wanted.video, wanted.ids)
            answer = _Answer(wanted, fed)
            if not answer.take(fed.logits):
                return
            group = next((each for each in self._groups if each.batch.takes(fed)), None)
            if group is None:
                group = _Group()
                self._groups.append(group)
            group.batch.join(fed)
            group.answers.append(answer)
        except Exception as error:  # noqa: BLE001 (it is told to whoever asked)
            wanted.emit(Piece(error=error))

    def _step(self, group: _Group) -> None:
        here = [row for row, each in enumerate(group.answers) if not each.wanted.cancelled.is_set()]
        try:
            group.keep(here)
            if not here:
                return
            logits = group.batch.step([answer.last for answer in group.answers])
            going = [answer.take(row) for answer, row in zip(group.answers, logits, strict=True)]
            group.keep([row for row, goes in enumerate(going) if goes])
        except Exception as error:  # noqa: BLE001 (it is told to whoever asked)
            for answer in group.answers:
                answer.wanted.emit(Piece(error=error))
            group.answers, group.batch = [], DecodingBatch()
            return
        self.steps += 1
        self.stepped_rows += len(here)


def _stopping() -> ApiError:
    return ApiError(503, "the server stops. Ask again later.", "server_stopping", retry_after=5)
