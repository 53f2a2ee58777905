"""Watched videos in memory: on the device up to a number of bytes, then on the host."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import torch

from sttm.chat.records import PrefillState
from sttm.chat.store_folder import Place, StoredVideo


@dataclass(frozen=True)
class _Held:
    """A video in memory.

    Args:
        state: refers to no model.
        model: fingerprint of the model that made it.
        where: its tensors are.
        created: when it was put here first.
        last_used: when it was put here last.
    """

    state: PrefillState
    model: str
    where: Place
    created: datetime
    last_used: datetime


class VideoMemory:
    """Videos by key; the least recently used go from the device to the host, and from there.

    Args:
        device_bytes: for those on the device.
        host_bytes: for those on the host.

    Threads may share it.
    """

    def __init__(self, device_bytes: int, host_bytes: int) -> None:
        self._limits: dict[Place, int] = {"device": device_bytes, "host": host_bytes}
        self._held: dict[str, _Held] = {}  # the least recently used first
        self._lock = threading.Lock()

    def get(self, key: str) -> tuple[str, PrefillState] | None:
        """Return the fingerprint of the model that made a video, and the video."""
        held = self._held.get(key)
        return None if held is None else (held.model, held.state)

    def put(
        self, key: str, model: str, state: PrefillState, devices: Sequence[torch.device]
    ) -> None:
        """Take in a video as the one that was used last.

        Args:
            key: of the video.
            model: fingerprint of the model that made it.
            state: the video.
            devices: where the model wants each layer of its cache, and where it is.
        """
        where: Place = "device" if any(map(_is_device, devices)) else "host"
        now = datetime.now(UTC)
        with self._lock:
            before = self._held.pop(key, None)
            created = now if before is None else before.created
            self._held[key] = _Held(state, model, where, created, now)
            self._shrink()

    def remove(self, key: str) -> bool:
        """Forget a video; returns whether it was there."""
        with self._lock:
            return self._held.pop(key, None) is not None

    def entries(self) -> list[StoredVideo]:
        """List the videos, the least recently used first."""
        with self._lock:
            return [_entry(key, held) for key, held in self._held.items()]

    def _shrink(self) -> None:
        for place, limit in self._limits.items():
            used = sum(held.state.nbytes for held in self._held.values() if held.where == place)
            for key, held in list(self._held.items()):
                if held.where != place or used <= limit:
                    continue
                used -= held.state.nbytes
                if place == "host":
                    del self._held[key]
                else:
                    state = held.state.to(["cpu"] * len(held.state.cache.layers))
                    self._held[key] = replace(held, state=state, where="host")


def _is_device(device: torch.device) -> bool:
    return device.type != "cpu"


def _entry(key: str, held: _Held) -> StoredVideo:
    state = held.state
    return StoredVideo(
        key=key,
        name=state.source.path,
        contents=tuple(source.content for source in state.sources),
        method=state.method,
        tokens_in=state.tokens_in,
        tokens_out=state.tokens_out,
        bytes=state.nbytes,
        where=held.where,
        created=held.created,
        last_used=held.last_used,
    )
