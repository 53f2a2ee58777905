"""Videos for questions: found in the store, or watched beside the answers, each only once."""

import asyncio
import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch

from sttm.chat import PrefilledVideo, VideoChat, VideoStore
from sttm.errors import ConfigError
from sttm.methods import Method, list_methods
from sttm.server.errors import busy
from sttm.server.video_inputs import VideoFile
from sttm.video import Video

Keep = float | int
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
    """A video that can be asked.

    Args:
        video: in the model's cache.
        key: names it in the store.
        found: whether the store had it, it was watched for this request, or for another one that
            came shortly before.
    """

    video: PrefilledVideo
    key: str
    found: Found

    @property
    def cached(self) -> bool:
        """Whether it was there before the request."""
        return self.found == "store"


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

    async def watch(self, chat: VideoChat, file: VideoFile, **sampling: Any) -> Watched:
        """Find a video or watch it; requests for one video share the work.

        Args:
            chat: that watches.
            file: the video; deleted behind it if it is temporary.
            sampling: see `VideoChat.watch`.

        Raises:
            ApiError: too many videos wait.
            VideoError: it cannot be decoded.
        """
        with contextlib.ExitStack() as stack:
            stack.callback(file.delete)
            key = await self._find(self._store.key, chat, file.path, **sampling)
            job = self._jobs.get(key)
            is_new = job is None
            if job is None:
                job = self._start(key, chat, file, sampling)
                stack.pop_all()  # the job deletes the file
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

    def _start(self, key: str, chat: VideoChat, file: VideoFile, sampling: Any) -> _Job:
        job = self._jobs[key] = _Job()

        def finish(_: object) -> None:
            file.delete()
            if self._jobs.get(key) is job:
                del self._jobs[key]

        job.task = asyncio.create_task(self._obtain(key, job, chat, file, sampling))
        job.task.add_done_callback(finish)
        return job

    async def _obtain(
        self, key: str, job: _Job, chat: VideoChat, file: VideoFile, sampling: Any
    ) -> Watched:
        found = await self._find(self._store.find, chat, key)
        if found is not None:
            return Watched(found, key, "store")
        if self.open >= self._most:
            raise busy("video to watch", _RETRY_SECONDS)
        job.watching = self._watchers.submit(self._work, chat, file, sampling)
        self._give_up(key, job)  # they may have left while it was looked up
        return Watched(await asyncio.wrap_future(job.watching), key, "watched")

    def _give_up(self, key: str, job: _Job) -> None:
        """Leave a video that nobody waits for, unless it was begun: then others may ask later."""
        if not job.waiting and job.watching is not None and job.watching.cancel():
            self._jobs.pop(key, None)

    def _work(self, chat: VideoChat, file: VideoFile, sampling: Any) -> PrefilledVideo:
        with _beside_answers(chat.model.device):
            return self._store.watch(chat, file.path, **sampling)


def _beside_answers(device: torch.device) -> Any:
    """Return a block whose work on a GPU runs beside that of other threads, not in front of it."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    return torch.cuda.stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
