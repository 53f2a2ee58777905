"""Videos for questions: found in the store, or watched beside the answers, each only once."""

import asyncio
import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from os import PathLike
from typing import Any, Protocol

import torch

from sttm.chat import PrefilledVideo, VideoChat
from sttm.methods import Method
from sttm.server.errors import busy
from sttm.server.video_inputs import VideoFile
from sttm.video import Video

Keep = float | int
_THREADS = 2  # one decodes while the other has the model
_CHATS = 64
_RETRY_SECONDS = 5


class Store(Protocol):
    """What a server needs of a store of watched videos; see `sttm.chat.VideoStore`."""

    hits: int
    misses: int

    def watch(
        self, chat: VideoChat, video: str | PathLike[str], **sampling: Any
    ) -> PrefilledVideo:
        """Find a video, or watch and store it."""

    def key(self, chat: VideoChat, video: str | PathLike[str], **sampling: Any) -> str:
        """Name what a chat makes of a video."""

    def find(self, chat: VideoChat, key: str) -> PrefilledVideo | None:
        """Return a stored video."""

    def entries(self) -> Sequence[Any]:
        """List what is stored."""

    def remove(self, key: str) -> Any:
        """Forget a video."""


class Chats:
    """The chats of one model, by how much they keep and by their system prompt.

    Args:
        model: a supported transformers video model.
        processor: its processor.
        reduction: gives the method for what a request wants to keep; None stands for the server's
            own budget, and no method keeps all tokens.
        layer: see `sttm.attach`.
        positions: see `sttm.attach`.
        reader: decodes files.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        reduction: Callable[[Keep | None], Method | None],
        *,
        layer: int | None = None,
        positions: str = "auto",
        reader: Callable[..., Video],
    ) -> None:
        self.model = model
        self.processor = processor
        self._reduction = reduction
        self._options = {"layer": layer, "positions": positions, "reader": reader}
        self._chats: OrderedDict[tuple[Keep | None, str | None], VideoChat] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, keep: Keep | None, system: str | None) -> VideoChat:
        """Return a chat.

        Raises:
            ConfigError: there is no such reduction.
        """
        wanted = keep, system
        with self._lock:
            chat = self._chats.get(wanted)
            if chat is None:
                method = self._reduction(keep)
                options = {**self._options, **({} if method else {"layer": None})}
                chat = VideoChat(self.model, self.processor, method, system=system, **options)
                self._chats[wanted] = chat
            self._chats.move_to_end(wanted)
            if len(self._chats) > _CHATS:
                self._chats.popitem(last=False)  # its hooks go when its videos do
        return chat


@dataclass(frozen=True)
class Watched:
    """A video that can be asked.

    Args:
        video: in the model's cache.
        key: names it in the store.
        cached: whether it was there before the request.
    """

    video: PrefilledVideo
    key: str
    cached: bool


@dataclass
class _Job:
    future: "Future[PrefilledVideo]"
    waiting: int = 0


class Watcher:
    """Watches videos in threads of its own. All methods but `close` are for the event loop.

    Args:
        store: keeps them.
        most: videos that are being watched or wait for it.
    """

    def __init__(self, store: Store, most: int) -> None:
        self._store = store
        self._most = most
        self._jobs: dict[str, _Job] = {}
        self._pool = ThreadPoolExecutor(_THREADS, "sttm-watch")

    @property
    def open(self) -> int:
        """Videos that are being watched or wait for it."""
        return len(self._jobs)

    async def watch(self, chat: VideoChat, file: VideoFile, **sampling: Any) -> Watched:
        """Find a video or watch it; requests for one that is being watched share the work.

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
            key = await asyncio.to_thread(self._store.key, chat, file.path, **sampling)
            found = await asyncio.to_thread(self._store.find, chat, key)
            if found is not None:
                return Watched(found, key, cached=True)
            job = self._jobs.get(key)
            if job is None:
                if len(self._jobs) >= self._most:
                    raise busy("video to watch", _RETRY_SECONDS)
                job = self._start(key, chat, file, sampling)
                stack.pop_all()  # the job deletes the file
        return Watched(await self._wait(job), key, cached=False)

    def close(self) -> None:
        """Wait for the videos that are being watched; those that wait are left."""
        self._pool.shutdown(cancel_futures=True)

    def _start(self, key: str, chat: VideoChat, file: VideoFile, sampling: Any) -> _Job:
        loop = asyncio.get_running_loop()
        future = self._pool.submit(self._work, chat, file, sampling)
        self._jobs[key] = job = _Job(future)

        def finish(_: object) -> None:
            file.delete()
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(self._jobs.pop, key, None)

        future.add_done_callback(finish)
        return job

    async def _wait(self, job: _Job) -> PrefilledVideo:
        job.waiting += 1
        try:
            return await asyncio.shield(asyncio.wrap_future(job.future))
        finally:
            job.waiting -= 1
            if not job.waiting:
                job.future.cancel()  # if it has not begun; else others may ask for the video later

    def _work(self, chat: VideoChat, file: VideoFile, sampling: Any) -> PrefilledVideo:
        with _beside_answers(chat.model.device):
            return self._store.watch(chat, file.path, **sampling)


def _beside_answers(device: torch.device) -> Any:
    """Return a block whose work on a GPU runs beside that of other threads, not in front of it."""
    if device.type != "cuda":
        return contextlib.nullcontext()
    return torch.cuda.stream(torch.cuda.Stream(device))
