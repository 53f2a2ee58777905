"""A store of watched videos: each is decoded, encoded and prefilled once, for ever."""

import os
import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args
from weakref import WeakValueDictionary

from sttm.chat.cache_tensors import KvDtype, layer_devices, rounded
from sttm.chat.identity import content_digest, fingerprint, method_key, video_key
from sttm.chat.prefilled import Conversation, Found, PrefilledVideo
from sttm.chat.prompt import Turn, openings
from sttm.chat.records import PrefillState
from sttm.chat.saved_video import load_state, save_state
from sttm.chat.session import Progress, VideoChat
from sttm.chat.shown import Shown, as_video, shown_in_order
from sttm.chat.store_folder import StoredVideo, StoreFolder
from sttm.chat.video_memory import VideoMemory
from sttm.errors import ConfigError, SavedCacheError, StoreWarning, VideoError, WriteError
from sttm.video import Sampling, Video

if TYPE_CHECKING:
    from sttm.models import Adapter

GIB = 2**30


@dataclass(frozen=True, eq=False)
class _Step:
    """A video that is to be found or watched."""

    video: Video | str | PathLike[str]
    path: str
    content: str


class VideoStore:
    """Keeps watched videos: on the device, then in the host's memory, then in a folder.

    Each place has a budget of bytes. Beyond it the least recently used videos move to the next
    place: from the device to the host, and from the host to the folder, which has them already:
    `watch` returns once a video's file is on the disk. Beyond the folder's budget they are deleted.

    A video is found by its content, never by its name, and only for the same model with the same
    weights, method, layer, sampling and prompt: see `key`.

    Args:
        folder: of the files, made if it is not there; other processes may use it at the same time.
            None: in memory only.
        memory_bytes: for videos in the host's memory. A CPU's model has its videos there, too.
        device_bytes: for videos on the model's device.
        disk_bytes: for files in the folder.
        kv_dtype: "bfloat16" or "float8" to store keys and values rounded to it. A video answers
            from the rounded ones from the beginning, so that answers do not depend on where it is.

    Attributes:
        hits: videos that were found.
        misses: videos that were not.
        folder: of the files; None in memory only.

    Raises:
        ConfigError: a budget below 0, an unknown dtype or one without a folder, or no file can be
            written to the folder.

    Warns:
        StoreWarning: files in the folder were half-written or damaged; they are deleted. Or a video
            could not be stored.

    Threads may share a store; one that asks for a video that another one is watching waits for it.
    Call it without holding a chat's lock.
    """

    def __init__(
        self,
        folder: str | PathLike[str] | None = None,
        *,
        memory_bytes: int = 4 * GIB,
        device_bytes: int = 4 * GIB,
        disk_bytes: int = 64 * GIB,
        kv_dtype: KvDtype | None = None,
    ) -> None:
        budgets = {"memory_bytes": memory_bytes, "device_bytes": device_bytes}
        for name, value in {**budgets, "disk_bytes": disk_bytes}.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise ConfigError(f"{name}: got {value!r}, expected a number of bytes, 0 or more.")
        if kv_dtype is not None and (folder is None or kv_dtype not in get_args(KvDtype)):
            raise ConfigError(
                f"kv_dtype: got {kv_dtype!r}{' without a folder' if folder is None else ''}, "
                f"expected {' or '.join(get_args(KvDtype))} for files in a folder, or None."
            )
        self.hits = 0
        self.misses = 0
        self._kv_dtype = kv_dtype
        self.folder = None if folder is None else Path(folder)
        self._folder = None if self.folder is None else StoreFolder(self.folder, disk_bytes)
        self._memory = VideoMemory(device_bytes, memory_bytes)
        self._lock = threading.Lock()
        self._turns: WeakValueDictionary[str, Any] = WeakValueDictionary()

    def watch(
        self,
        chat: VideoChat,
        video: Shown | Sequence[Shown | Turn],
        *,
        fps: float = 1.0,
        max_frames: int = 128,
        rule: str = "llava",
        context: str = "",
        progress: Progress | None = None,
    ) -> PrefilledVideo:
        """Find a video, or let a chat watch it and store it.

        Of a list of videos each beginning of it that ends with a video is stored by itself, so
        that what several lists begin with is watched once.

        Args:
            chat: that will be asked about it.
            video: see `VideoChat.watch`.
            fps: see there.
            max_frames: see there.
            rule: see there.
            context: see there.
            progress: see there; not called for a video that is found.

        Returns:
            the video, with the times that it took when it was watched, and with what of it was
            found.

        Raises:
            VideoError: the file cannot be read, or changed while it was watched.
            ConfigError: an argument is out of range, or the method cannot be told from others.
            UnsupportedModelError: weights of the model are not in memory.
        """
        sampling = Sampling(rule=rule, fps=fps, max_frames=max_frames)
        steps = self._steps(video, sampling)
        if not steps:
            return chat.watch([], context=context)
        keys = self._keys(chat, steps, sampling, context)
        watched = self._watch(chat, steps, keys, sampling, context, progress)
        shown = (step for step in steps if isinstance(step, _Step))
        sources = tuple(replace(s, path=step.path) for s, step in zip(watched.sources, shown))
        return replace(watched, sources=sources)

    def _watch(
        self,
        chat: VideoChat,
        steps: Sequence["_Step | Turn"],
        keys: Sequence[str],
        sampling: Sampling,
        context: str,
        progress: Progress | None,
    ) -> PrefilledVideo:
        """Find or watch videos behind one another; the last step is a video."""
        key, last = keys[-1], steps[-1]
        assert isinstance(last, _Step)
        with self._turn(key):
            state = self._find(chat, key)
            if state is not None:
                return _found(chat, state)
            behind = self._behind(chat, steps[:-1], keys[:-1], sampling, progress)
            made = chat.watch(
                last.video, **vars(sampling), context=context, progress=progress, behind=behind
            )
            if not isinstance(last.video, Video) and content_digest(last.video) != last.content:
                raise VideoError(
                    f"{last.video}: the file changed while it was watched, expected one that does "
                    "not. Watch it again when it is complete."
                )
            state = made.state()
            *before, source = state.sources
            state = replace(state, sources=(*before, replace(source, content=last.content)))
            state = self._keep(key, state, chat.adapter)
        found = Found() if behind is None else behind.video.found
        return PrefilledVideo(chat=chat, found=found, **vars(state))

    def _behind(
        self,
        chat: VideoChat,
        steps: Sequence["_Step | Turn"],
        keys: Sequence[str],
        sampling: Sampling,
        progress: Progress | None,
    ) -> Conversation | None:
        """Find or watch what stands in front of a video, with the turns behind it."""
        if not steps:
            return None
        last = max((i for i, s in enumerate(steps) if isinstance(s, _Step)), default=-1)
        if last < 0:
            watched = chat.watch([])
        else:
            watched = self._watch(chat, steps[: last + 1], keys, sampling, "", progress)
        talk = watched.conversation()
        talk.history += [step for step in steps[last + 1 :] if not isinstance(step, _Step)]
        return talk

    def key(
        self,
        chat: VideoChat,
        video: Shown | Sequence[Shown | Turn],
        *,
        fps: float = 1.0,
        max_frames: int = 128,
        rule: str = "llava",
        context: str = "",
    ) -> str:
        """Return the key under which `watch` with the same arguments stores a video.

        Of a list the key of all of it; see `keys`.

        It hashes the video's content, the model's configuration, weights, dtype and adapters, the
        method with all its options, layer, positions, sampling, processor, system prompt and
        context, the versions of sttm, transformers and the file format, and ``kv_dtype``.

        Returns:
            64 hexadecimal digits.

        Raises:
            ConfigError: as `watch`; also for a list without a video, which is not stored.
            VideoError: as `watch`.
        """
        sampling: dict[str, Any] = {"fps": fps, "max_frames": max_frames, "rule": rule}
        keys = self.keys(chat, video, **sampling, context=context)
        if not keys:
            raise ConfigError("key: got no video, expected at least one: words are not stored.")
        return keys[-1]

    def keys(
        self,
        chat: VideoChat,
        video: Shown | Sequence[Shown | Turn],
        *,
        fps: float = 1.0,
        max_frames: int = 128,
        rule: str = "llava",
        context: str = "",
    ) -> list[str]:
        """Return the keys of each beginning of a list that ends with a video; see `key`.

        Raises:
            ConfigError: as `watch`.
            VideoError: as `watch`.
        """
        sampling = Sampling(rule=rule, fps=fps, max_frames=max_frames)
        return self._keys(chat, self._steps(video, sampling), sampling, context)

    def find(self, chat: VideoChat, key: str, *, wait: bool = True) -> PrefilledVideo | None:
        """Return the video of a key for a chat with the model and the method that made it.

        None if there is none, or if it belongs to another model or method. A chat without a method
        takes what any method reduced.

        Args:
            chat: that will be asked about it.
            key: see `key`.
            wait: for a thread that watches or loads it at the moment; else None then, too.

        Warns:
            StoreWarning: its file is damaged; it is deleted.
        """
        turn = self._turn(key)
        if not turn.acquire(blocking=wait):
            return None
        try:
            state = self._find(chat, key)
        finally:
            turn.release()
        return None if state is None else _found(chat, state)

    def entries(self) -> list[StoredVideo]:
        """List all videos, the most recently used first."""
        found = {} if self._folder is None else {e.key: e for e in self._folder.entries()}
        for entry in self._memory.entries():
            known = found.get(entry.key, entry)
            created = min(entry.created, known.created)
            last_used = max(entry.last_used, known.last_used)
            found[entry.key] = replace(entry, created=created, last_used=last_used)
        return sorted(found.values(), key=lambda entry: entry.last_used, reverse=True)

    def remove(self, key: str) -> list[str]:
        """Delete a video everywhere, and the lists of videos that hold it, too.

        Videos that were handed out before can still be asked, and what other processes hold in
        memory stays there.

        Args:
            key: see `key`; of a list the last video is deleted.

        Returns:
            the keys of all that was deleted; none if it was not there.
        """
        entries = {entry.key: entry for entry in self.entries()}
        if key not in entries:
            return []
        content = entries[key].contents[-1]
        lists = [e.key for e in entries.values() if e.videos > 1 and content in e.contents]
        return [one for one in dict.fromkeys([key, *lists]) if self._remove(one)]

    def _remove(self, key: str) -> bool:
        with self._turn(key):
            was_held = self._memory.remove(key)
            return (self._folder is not None and self._folder.remove(key)) or was_held

    def collect(self) -> list[str]:
        """Delete half-written files, and the least recently used beyond the folder's budget.

        Returns:
            the names of the files.
        """
        if self._folder is None:
            return []
        return self._folder.drop_broken() + self._folder.drop_oldest()

    def verify(self) -> list[str]:
        """Read every file and compare its checksum.

        Returns:
            what is wrong, one sentence for each file that is damaged; nothing is deleted.
        """
        return [] if self._folder is None else self._folder.problems()

    def _steps(self, shown: Any, sampling: Sampling) -> list["_Step | Turn"]:
        """Return videos with their digests, and turns, in order."""
        steps: list[_Step | Turn] = []
        for step in shown_in_order(shown):
            if isinstance(step, tuple):
                steps.append(step)
                continue
            video = as_video(step, **vars(sampling))
            path = video.path if isinstance(video, Video) else os.fspath(video)
            steps.append(_Step(video, path, content_digest(video)))
        return steps

    def _keys(
        self,
        chat: VideoChat,
        steps: Sequence["_Step | Turn"],
        sampling: Sampling,
        context: str,
    ) -> list[str]:
        contents, keys = list[tuple[str, Sampling | None]](), list[str]()
        for step, messages in openings(steps, context):
            # Frames are sampled already.
            contents.append((step.content, None if isinstance(step.video, Video) else sampling))
            keys.append(video_key(chat, contents, messages, self._kv_dtype))
        return keys

    def _turn(self, key: str) -> Any:
        """Return the lock of one key: two threads do not watch or load the same video at once."""
        with self._lock:
            return self._turns.setdefault(key, threading.Lock())

    def _find(self, chat: VideoChat, key: str) -> PrefillState | None:
        model, devices = fingerprint(chat.adapter.model), layer_devices(chat.adapter)
        held = self._memory.get(key)
        if held is None:
            state = self._load(chat, key)
        else:
            maker, state = held
            own = method_key(chat.method)
            is_own = maker == model and own in (None, state.method)
            state = state.to(devices) if is_own else None
        if state is not None:
            self._memory.put(key, model, state, devices)
            if self._folder is not None:
                self._folder.touch(key)
        with self._lock:
            self.hits += state is not None
            self.misses += state is None
        return state

    def _load(self, chat: VideoChat, key: str) -> PrefillState | None:
        path = None if self._folder is None else self._folder.file(key)
        if self._folder is None or path is None or not path.exists():
            return None
        try:
            return load_state(chat.adapter, chat.method, path, key=key)
        except SavedCacheError:  # damaged, another chat's, or deleted meanwhile
            problem = self._folder.drop_damaged(key)
            if problem is not None:
                warnings.warn(f"{problem} It is deleted.", StoreWarning, stacklevel=4)
            return None

    def _keep(self, key: str, state: PrefillState, adapter: "Adapter") -> PrefillState:
        """Store a video that was watched, first of all in the folder."""
        if self._folder is not None:
            self._write(self._folder, key, state, adapter)
        if self._kv_dtype is not None:
            state = rounded(state, self._kv_dtype)
        self._memory.put(key, fingerprint(adapter.model), state, layer_devices(adapter))
        return state

    def _write(
        self, folder: StoreFolder, key: str, state: PrefillState, adapter: "Adapter"
    ) -> None:
        def save(path: Path) -> None:
            save_state(state, adapter, path, key=key, kv_dtype=self._kv_dtype)

        try:
            folder.write(key, save)
        except WriteError as error:  # watching was paid for, and the answer is wanted
            text = f"{error} The video is not on the disk, and will be watched again some day."
            warnings.warn(text, StoreWarning, stacklevel=4)


def _found(chat: VideoChat, state: PrefillState) -> PrefilledVideo:
    found = Found(len(state.sources), len(state.ids))
    return PrefilledVideo(chat=chat, found=found, **vars(state))
