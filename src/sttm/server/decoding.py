"""Decode videos in processes of their own, with an end to their time and memory."""

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

import sttm
from sttm.errors import VideoError
from sttm.server.config import MIB, Limits
from sttm.server.decode_worker import KNOWN_ERROR
from sttm.video import Sampling, Video

log = logging.getLogger("sttm.server")
_COMMAND = (sys.executable, "-P", "-m", "sttm.server.decode_worker")
_SHOWN = 600  # characters of an error


class Decoder:
    """Decodes as `sttm.video.read_video` does; whatever a file does, this process lives on.

    Args:
        limits: on time, memory, seconds and pixels.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()

    def __call__(
        self,
        path: str | PathLike[str],
        *,
        fps: float,
        max_frames: int,
        rule: str,
        progress: Callable[[int, int], None] | None = None,
    ) -> Video:
        """Decode a file.

        Raises:
            VideoError: it cannot be decoded, or not within the limits; no path is in the message.
        """
        limits = self._limits
        sampling = {"fps": fps, "max_frames": max_frames, "rule": rule}
        job = {
            "path": str(path),
            "sampling": sampling,
            "bytes": int(limits.decode_mib * MIB),
            "seconds": limits.decode_seconds,
            "most_seconds": limits.video_seconds,
            "most_pixels": limits.video_pixels,
        }
        with self._process() as process:
            try:
                out, told = process.communicate(json.dumps(job).encode(), limits.decode_seconds)
            except subprocess.TimeoutExpired as error:
                raise VideoError(
                    f"decoding the video took more than {limits.decode_seconds:g} s, which is all "
                    "that the server gives. Cut it, or convert it to H.264."
                ) from error
        if process.returncode == KNOWN_ERROR:
            raise VideoError(told.decode(errors="replace").strip()[-_SHOWN:])
        if process.returncode:
            log.warning("decoding failed: %s", told.decode(errors="replace").strip()[-_SHOWN:])
            raise VideoError(
                "decoding the video ended without a result, as when a file is damaged, or takes "
                f"more than {limits.decode_mib:g} MiB of memory. Convert it to H.264."
            )
        return _video(out, str(path), Sampling(**sampling))  # type: ignore[arg-type]

    def stop(self) -> None:
        """End all decoding that is under way."""
        with self._lock:
            for process in self._running:
                process.kill()

    @contextmanager
    def _process(self) -> Iterator["subprocess.Popen[bytes]"]:
        """Run the worker; it has ended when the block has."""
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            _COMMAND, stdin=pipe, stdout=pipe, stderr=pipe, env=_environment()
        )
        with self._lock:
            self._running.add(process)
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            with self._lock:
                self._running.discard(process)


def _environment() -> dict[str, str]:
    """Return the few variables that the worker needs; keys and tokens are not among them."""
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    found = str(Path(sttm.__file__).parents[1]), os.environ.get("PYTHONPATH", "")
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")
    return {**kept, **threads, "PYTHONPATH": os.pathsep.join(filter(None, found))}


def _video(out: bytes, path: str, sampling: Sampling) -> Video:
    """Read what the worker has written."""
    head, _, frames = out.partition(b"\n")
    facts: dict[str, Any] = json.loads(head)
    facts |= {name: tuple(facts[name]) for name in ("timestamps", "indices", "warnings")}
    shape = facts.pop("shape")
    pixels = np.frombuffer(bytearray(frames), np.uint8).reshape(shape)  # a copy that can be written
    return Video(frames=pixels, path=path, sampling=sampling, **facts)
