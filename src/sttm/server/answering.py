"""From a request for a chat completion to its answer."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from typing import Any

import torch

from sttm.chat import VideoChat, VideoStore
from sttm.chat.prompt import Turn
from sttm.chat.stepping import prompt_of, words_of
from sttm.server.config import MIB, ServerConfig
from sttm.server.errors import ApiError, bad_request, busy
from sttm.server.metrics import Metrics
from sttm.server.openai_schema import ChatRequest, Talk, Usage, read_talk, refuse_model
from sttm.server.sampling import SamplingParams
from sttm.server.scheduler import Generation, Piece, Scheduler
from sttm.server.uploads import FILE_PREFIX, Uploads
from sttm.server.video_inputs import VideoFile, VideoInputs
from sttm.server.views import Views
from sttm.server.watching import Chats, Watched, Watcher
from sttm.video import Sampling

_RETRY_SECONDS = 2
_LONGEST_TOKEN = 256  # characters; the longest of a vocabulary are 128 spaces


class Service:
    """Answers requests: finds their videos, watches them, and asks.

    Args:
        config: what the server allows.
        chats: of its model.
        store: keeps watched videos.
    """

    def __init__(self, config: ServerConfig, chats: Chats, store: VideoStore) -> None:
        limits = config.limits
        self.config = config
        self.store = store
        self.uploads = Uploads(config.folder, limits)
        self.metrics = Metrics()
        self.scheduler = Scheduler(rows=limits.batch, kv_bytes=int(limits.batch_mib * MIB))
        self.watcher = Watcher(store, limits.open_videos)
        self.views = Views(store, chats, self.uploads)
        self._chats = chats
        self._inputs = VideoInputs(config, self.uploads)
        self._open = 0
        self._add_gauges()

    def close(self) -> None:
        """Finish what is being watched, then stop answering."""
        self.watcher.close()
        self.scheduler.close()

    async def begin(self, request: ChatRequest) -> "Reply":
        """Do all that comes before the first token; what is wrong with a request shows here.

        Raises:
            ApiError, SttmError: the request cannot be answered.
        """
        refuse_model(request.model, self.config.name)
        request.refuse_unserved()
        talk = read_talk(request.messages)
        sampling = self._sampling(request)
        params = self._params(request)
        self._check_characters(talk)
        if self._open >= self.config.limits.open_answers:
            raise busy("question", _RETRY_SECONDS)
        self._open += 1
        try:
            start = time.perf_counter()
            wanted = request.sttm
            chat = await asyncio.to_thread(self._chats.get, wanted.keep, talk.system, wanted.method)
            await asyncio.to_thread(self._check_words, chat, talk)
            opening = await self._find(talk)
            watched = await self.watcher.watch(chat, opening, **sampling)
            for url, key in zip(talk.urls, watched.keys, strict=True):
                if url.startswith(FILE_PREFIX):
                    frames = Sampling(**sampling)
                    await asyncio.to_thread(self.uploads.note_video, url, key, frames)
            ids = await asyncio.to_thread(prompt_of, watched.video, talk.history, talk.question)
            self._check_prompt(watched, ids, params)
        except BaseException:
            self._open -= 1
            raise
        self._count(watched)
        return Reply(self, watched, ids, params, start)

    def about(self) -> dict[str, Any]:
        """Return what a request may ask for, and what it gets by default."""
        config, method = self.config, self._chats.get().method
        return {
            "method": None if method is None else method.name,
            "keep": getattr(method, "keep", None),  # thresholds have none
            "methods": self._chats.methods(),
            "max_keep": config.limits.max_keep,
            "fps": config.fps,
            "max_frames": config.max_frames,
            "max_tokens": config.limits.new_tokens,
            "is_kept": self.store.folder is not None,
        }

    def leave(self) -> None:
        """Count one answer less; `Reply` does."""
        self._open -= 1

    async def _find(self, talk: Talk) -> list[VideoFile | Turn]:
        """Find the videos of a conversation.

        Raises:
            ApiError: there are too many, or see `VideoInputs.find`.
        """
        most = self.config.limits.videos
        if len(talk.urls) > most:
            raise bad_request(
                f"messages: got {len(talk.urls)} videos, expected at most {most}. Begin a new "
                "conversation.",
                "messages",
                "too_many_videos",
            )
        with contextlib.ExitStack() as stack:
            opening: list[VideoFile | Turn] = []
            for step in talk.opening:
                if isinstance(step, str):
                    file = await self._inputs.find(step)
                    stack.callback(file.delete)
                    opening.append(file)
                else:
                    opening.append(step)
            stack.pop_all()
        return opening

    def _sampling(self, request: ChatRequest) -> dict[str, Any]:
        config, wanted = self.config, request.sttm
        most = {"keep": config.limits.max_keep, "max_frames": config.max_frames}
        if isinstance(wanted.keep, int) and most["keep"] == 1:
            del most["keep"]  # below that limit, counts of tokens are not taken
        for name, limit in most.items():
            value = getattr(wanted, name)
            if value is not None and value > limit:
                raise bad_request(
                    f"sttm.{name}: got {value}, expected at most {limit}, this server's limit.",
                    f"sttm.{name}",
                )
        return {
            "fps": wanted.fps or config.fps,
            "max_frames": wanted.max_frames or config.max_frames,
        }

    def _params(self, request: ChatRequest) -> SamplingParams:
        limit = self.config.limits.new_tokens
        wanted = request.max_completion_tokens or request.max_tokens or limit
        return SamplingParams(
            max_tokens=min(wanted, limit),
            temperature=request.temperature or 0.0,
            top_p=1.0 if request.top_p is None else request.top_p,
            seed=request.seed,
            stop=request.stops,
        )

    def _check_characters(self, talk: Talk) -> None:
        """Refuse what has more tokens than the server takes, however long these are."""
        most = self.config.limits.prompt_tokens
        if talk.characters > most * _LONGEST_TOKEN:
            raise _too_long(f"{talk.characters} characters", most)

    def _check_words(self, chat: VideoChat, talk: Talk) -> None:
        """Refuse more words than the server takes, before any is fed with the videos."""
        most = self.config.limits.prompt_tokens
        asked = words_of(chat, talk.opening, talk.history, talk.question)
        if asked > most:
            raise _too_long(f"{asked} tokens", most)

    def _check_prompt(self, watched: Watched, ids: torch.Tensor, params: SamplingParams) -> None:
        """Refuse a question that goes beyond the model's positions with its videos and answer."""
        asked = len(ids) - len(watched.video.ids)
        config = watched.video.chat.model.config.get_text_config()
        longest = getattr(config, "max_position_embeddings", None)  # some have no end
        last = watched.video.next_position + asked + params.max_tokens
        if longest is not None and last > longest:
            raise bad_request(
                f"messages: got {last} positions with video, question and answer, expected at most "
                f"{longest}, which the model was made for. Sample fewer frames, or ask for a "
                "shorter answer.",
                "messages",
                "context_length_exceeded",
            )

    def _count(self, watched: Watched) -> None:
        video, metrics = watched.video, self.metrics
        if not watched.keys:
            return
        metrics.videos.labels(watched.found).inc()
        metrics.saved.inc(len(video.ids) if watched.found == "joined" else video.found.tokens)
        if watched.found != "watched":
            return
        fresh = video.reports[video.found.videos :]
        metrics.video_tokens.labels("in").inc(sum(r.tokens_in for r in fresh))
        metrics.video_tokens.labels("out").inc(sum(r.tokens_out for r in fresh))
        if video.found.videos:  # the times are those of all videos together
            return
        if not fresh:  # all tokens were kept
            metrics.video_tokens.labels("in").inc(video.tokens_in)
            metrics.video_tokens.labels("out").inc(video.tokens_out)
        for stage, seconds in vars(video.timings).items():
            metrics.stages.labels(stage).observe(seconds)

    def _add_gauges(self) -> None:
        gauge = self.metrics.gauge
        gauge("open_answers", "Requests that are being answered.", lambda: self._open)
        gauge("open_videos", "Videos being watched or waiting for it.", lambda: self.watcher.open)
        gauge("decode_steps", "Steps of the model so far.", lambda: self.scheduler.steps)
        gauge("decode_rows", "Rows in these steps.", lambda: self.scheduler.stepped_rows)


class Reply:
    """An answer that is being made.

    Args:
        service: that makes it.
        watched: the video.
        ids: ``(n,)`` int64, the prompt.
        params: how tokens are chosen.
        start: when the request came, by ``time.perf_counter``.

    Attributes:
        usage: what it has cost so far.
    """

    def __init__(
        self,
        service: Service,
        watched: Watched,
        ids: torch.Tensor,
        params: SamplingParams,
        start: float,
    ) -> None:
        self._service = service
        self._watched = watched
        self._start = start
        self._asked = time.perf_counter()
        self._first: float | None = None
        self._pieces: asyncio.Queue[Piece] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._wanted = Generation(watched.video, ids, params, self._emit)
        self.usage = Usage(len(ids), 0, 0)

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """Yield the answer as it comes; leaving the loop ends it.

        Raises:
            Exception: the model failed.
        """
        try:
            self._service.scheduler.submit(self._wanted)
            while True:
                piece = await self._pieces.get()
                if piece.error is not None:
                    raise piece.error
                if self._first is None:
                    self._first = time.perf_counter()
                    self._service.metrics.ttft.observe(self._first - self._start)
                cached = min(piece.known, self._watched.video.found.tokens)
                self.usage = Usage(self.usage.prompt, cached, piece.tokens)
                if piece.text or piece.reason:
                    yield piece
                if piece.reason is not None:
                    return
        finally:
            self.close()

    def close(self) -> None:
        """End the answer; harmless when called again."""
        if self._wanted.cancelled.is_set():
            return
        self._wanted.cancelled.set()
        self._service.leave()
        self._service.metrics.completion.inc(self.usage.completion)
        self._service.metrics.duration.observe(time.perf_counter() - self._start)

    def details(self) -> dict[str, Any]:
        """Return what OpenAI's API has no place for; times in milliseconds.

        ``ttft_ms`` counts from the request to the first token, its video included; ``stages_ms``
        says where the time went, or had gone when a stored video was watched.
        """
        video, now = self._watched.video, time.perf_counter()
        first = now if self._first is None else self._first
        stages = {name: 1e3 * seconds for name, seconds in vars(video.timings).items()}
        stages |= {"first_token": 1e3 * (first - self._asked), "answer": 1e3 * (now - self._asked)}
        return {
            "video_id": self._watched.keys[-1] if self._watched.keys else None,
            "cached": self._watched.cached,
            "tokens_in": video.tokens_in,
            "tokens_out": video.tokens_out,
            "retention": round(video.retention, 4),
            "frames": sum(len(source.timestamps) for source in video.sources),
            "duration_s": round(sum(source.duration for source in video.sources), 3),
            "ttft_ms": round(1e3 * (first - self._start), 3),
            "stages_ms": {name: round(value, 3) for name, value in stages.items()},
            "warnings": [text for source in video.sources for text in source.warnings],
        }

    def _emit(self, piece: Piece) -> None:
        """Take a piece from the scheduler's thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._pieces.put_nowait, piece)


def _too_long(got: str, most: int) -> ApiError:
    return bad_request(
        f"messages: got {got} beside the videos, expected at most {most} tokens. Ask shorter, or "
        "begin a new conversation.",
        "messages",
        "context_length_exceeded",
    )
