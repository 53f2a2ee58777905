"""Videos for questions: found in the store, or watched beside the answers, each only once."""

import asyncio
import contextlib
import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch

from sttm.chat import PrefilledVideo, VideoChat, VideoStore
from sttm.chat.prompt import Turn
from sttm.errors import ConfigError
from sttm.methods import Method, list_methods
from sttm.server.errors import busy
from sttm.server.video_inputs import VideoFile
from sttm.video import Video

Keep = float | int
Opening = Sequence[VideoFile | Turn]
Found = Literal["store", "watched", "joined"]
_WATCHERS = 2  # one decodes while the other has the model
_FINDERS = 4
_CHATS = 64
_RETRY_SECONDS = 5


class Chats:
    """The chats of one model, by how they reduce videos and by their system prompt.

    Args:
        model: a supported transformers video model.
        processor: its processor.
        reduction: gives the method for what a request wants to keep, and for the name of the
            method that it wants; None stands for the server's own, and no method keeps all tokens.
        layer: see `sttm.attach`.
        positions: see `sttm.attach`.
        reader: decodes files.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        reduction: Callable[[Keep | None, str | None], Method | None],
        *,
        layer: int | None = None,
        positions: str = "auto",
        reader: Callable[..., Video],
    ) -> None:
        self.model = model
        self.processor = processor
        self.reader = reader
        self._reduction = reduction
        self._options: dict[str, Any] = {
            "layer": layer,
            "positions": positions,
            "reader": reader,
        }
        self._chats: OrderedDict[tuple[Any, ...], VideoChat] = OrderedDict()
        self._lock = threading.Lock()

    def get(
        self, keep: Keep | None = None, system: str | None = None, method: str | None = None
    ) -> VideoChat:
        """Return a chat.

        Args:
            keep: share or number of tokens; None for the server's own.
            system: prompt; None for the chat template's own.
            method: its name; None for the server's own.

        Raises:
            ConfigError: there is no such reduction.
        """
        wanted = keep, method, system
        with self._lock:
            chat = self._chats.get(wanted)
            if chat is None:
                made = self._reduction(keep, method)
                options = {**self._options, **({} if made else {"layer": None})}
                chat = VideoChat(self.model, self.processor, made, system=system, **options)
                self._chats[wanted] = chat
            self._chats.move_to_end(wanted)
            if len(self._chats) > _CHATS:
                self._chats.popitem(last=False)  # its hooks go when its videos do
        return chat

    def methods(self) -> list[str]:
        """Name the methods that this model's chats can use at a budget, whatever the question."""
        names = []
        for info in list_methods():
            with contextlib.suppress(ConfigError):  # it has no budget, or asks for the question
                if self.get(0.5, None, info.name).method is not None:
                    names.append(info.name)
        return names


@dataclass(frozen=True)
class Watched:
    """Videos that can be asked, or a conversation in words alone.

    Args:
        video: what is in the model's cache.
        keys: name in the store what ends with the first video, the second, and so on.
        found: whether the store had all of it, it was watched for this request, or for another one
            that came shortly before.
    """

    video: PrefilledVideo
    keys: Sequence[str]
    found: Found

    @property
    def cached(self) -> bool:
        """Whether all of it was there before the request."""
        return bool(self.keys) and self.found == "store"


@dataclass(eq=False)
class _Job:
    """A video that some requests wait for: looked up first, and then watched if need be."""

    task: "asyncio.Task[Watched]" = field(init=False)
    watching: "Future[PrefilledVideo] | None" = None
    waiting: int = 0


class Watcher:
    """Finds videos, or watches them in threads of its own.

    All methods but `close` are for the event loop.

    Args:
        store: keeps them.
        most: videos that are being watched or wait for it.
    """

    def __init__(self, store: VideoStore, most: int) -> None:
        self._store = store
        self._most = most
        self._jobs: dict[str, _Job] = {}
        self._finders = ThreadPoolExecutor(_FINDERS, "sttm-find")
        self._watchers = ThreadPoolExecutor(_WATCHERS, "sttm-watch")

    @property
    def open(self) -> int:
        """Videos that are being watched or wait for it."""
        return sum(job.watching is not None for job in self._jobs.values())

    async def watch(self, chat: VideoChat, opening: Opening, **sampling: Any) -> Watched:
        """Find videos or watch them; requests for the same share the work.

        Args:
            chat: that watches.
            opening: videos, with (question, answer) pairs between them; those that are temporary
                are deleted behind it. Nothing: a conversation in words alone.
            sampling: see `VideoChat.watch`.

        Raises:
            ApiError: too many videos wait.
            VideoError: one cannot be decoded.
        """
        with contextlib.ExitStack() as stack:
            stack.callback(_delete, opening)
            shown = [step.path if isinstance(step, VideoFile) else step for step in opening]
            if not shown:
                return Watched(await self._find(chat.watch, []), (), "watched")
            keys = await self._find(self._store.keys, chat, shown, **sampling)
            key = keys[-1]
            job = self._jobs.get(key)
            is_new = job is None
            if job is None:
                work = functools.partial(self._work, chat, shown, sampling)
                job = self._start(keys, chat, work, functools.partial(_delete, opening))
                stack.pop_all()  # the job deletes the files
        job.waiting += 1
        try:
            watched = await asyncio.shield(job.task)
            return watched if is_new or watched.cached else replace(watched, found="joined")
        finally:
            job.waiting -= 1
            self._give_up(key, job)

    def close(self) -> None:
        """Wait for the videos that are being watched; those that wait are left."""
        for pool in (self._finders, self._watchers):
            pool.shutdown(cancel_futures=True)

    async def _find(self, find: Callable[..., Any], *args: Any, **more: Any) -> Any:
        return await asyncio.wrap_future(self._finders.submit(find, *args, **more))

    def _start(
        self,
        keys: Sequence[str],
        chat: VideoChat,
        work: Callable[[], PrefilledVideo],
        behind: Callable[[], None],
    ) -> _Job:
        key = keys[-1]
        job = self._jobs[key] = _Job()

        def finish(_: object) -> None:
            behind()
            if self._jobs.get(key) is job:
                del self._jobs[key]

        job.task = asyncio.create_task(self._obtain(keys, job, chat, work))
        job.task.add_done_callback(finish)
        return job

    async def _obtain(
        self, keys: Sequence[str], job: _Job, chat: VideoChat, work: Callable[[], PrefilledVideo]
    ) -> Watched:
        # Whoever watches several videos holds the turns of all that they begin with.
        found = await self._find(self._store.find, chat, keys[-1], wait=False)
        if found is not None:
            return Watched(found, keys, "store")
        if self.open >= self._most:
            raise busy("video to watch", _RETRY_SECONDS)
        job.watching = self._watchers.submit(work)
        self._give_up(keys[-1], job)  # they may have left while it was looked up
        video = await asyncio.wrap_future(job.watching)
        # What was not there at first, and then was, somebody else has watched.
        return Watched(video, keys, "joined" if video.found.videos == len(keys) else "watched")

    def _give_up(self, key: str, job: _Job) -> None:
        """Leave a video that nobody waits for, unless it was begun: then others may ask later."""
        if not job.waiting and job.watching is not None and job.watching.cancel():
            self._jobs.pop(key, None)

    def _work(self, chat: VideoChat, shown: Sequence[Path | Turn], sampling: Any) -> PrefilledVideo:
        with _beside_answers(chat.model.device):
            return self._store.watch(chat, shown, **sampling)


def _delete(opening: Opening) -> None:
    for step in opening:
        if isinstance(step, VideoFile):
            step.delete()


def _beside_answers(device: torch.device) -> Any:
    """Return a block whose work on a GPU runs beside that of other threads, not in front of it."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    return torch.cuda.stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
