"""Pipes, addresses and files, read once and in order; sources that stall, drop or change size."""

import contextlib
import itertools
import os
import select
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from sttm.errors import ConfigError, VideoError
from sttm.video.live import LiveFrame, LiveVideo

from .live_sources import encoded, http_server, pipe, send, tcp_server


def read(source: str, fps: float = 1.0, timeout: float = 5.0) -> list[LiveFrame]:
    return list(LiveVideo(source, fps=fps, timeout=timeout))


def assert_frames(frames: list[LiveFrame], count: int, step: int = 4, size: int = 64) -> None:
    """Check times and grey values of frames sampled once per second."""
    assert [round(frame.seconds, 2) for frame in frames] == list(range(count))
    assert all(frame.image.shape == (size, size, 3) for frame in frames)
    greys = [float(frame.image.mean()) for frame in frames]
    assert greys == pytest.approx([8 * step * i for i in range(count)], abs=3)


class Stdin:
    """Stands for the standard input of a process."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor


@pytest.mark.parametrize("form", ["mpegts", "matroska"])
def test_standard_input(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pipe(encoded(13, format=form)) as reader:
        monkeypatch.setattr(sys, "stdin", Stdin(reader))
        assert LiveVideo("-").is_live
        assert_frames(read("-"), 4)


def test_an_interrupt_is_none_of_the_pipes(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyAV swallows what is raised while libav reads, and would wait for the pipe again."""
    wait, interrupts = select.select, iter([KeyboardInterrupt()])

    def interrupted(files: list[int], _: Any, __: Any, timeout: float) -> Any:
        ready = wait(files, [], [], 0.5)
        for interrupt in () if ready[0] else interrupts:  # once, while nothing comes
            raise interrupt
        return ready if ready[0] else wait(files, [], [], timeout)

    with pipe(encoded(13), stall=20) as reader:
        monkeypatch.setattr(sys, "stdin", Stdin(reader))
        monkeypatch.setattr(select, "select", interrupted)
        begun = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            read("-", timeout=15.0)
        assert time.monotonic() - begun < 10


def test_a_named_pipe(tmp_path: Path) -> None:
    name = tmp_path / "camera"
    os.mkfifo(name)
    data = encoded(13)
    thread = threading.Thread(target=lambda: send(data, name.write_bytes), daemon=True)
    thread.start()
    assert_frames(read(str(name)), 4)


def test_an_address() -> None:
    with tcp_server(encoded(13)) as address:
        live = LiveVideo(address)
        assert live.is_live
        assert_frames(list(live), 4)
        assert live.notes == []


def test_http() -> None:
    with http_server(encoded(13)) as address:
        assert_frames(read(address), 4)
    with http_server(b"") as address, pytest.raises(VideoError, match="cannot be opened"):
        read(address)


def test_datagrams() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = encoded(40)

    def serve() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for _ in range(20):  # until somebody listens, and long enough to begin in the middle
                for at in range(0, len(data), 188 * 7):
                    sender.sendto(data[at : at + 188 * 7], ("127.0.0.1", port))
                    time.sleep(0.0005)

    threading.Thread(target=serve, daemon=True).start()
    frames = iter(LiveVideo(f"udp://127.0.0.1:{port}", timeout=2.0))
    seen = [next(frames) for _ in range(12)]
    assert all(b.seconds > a.seconds for a, b in itertools.pairwise(seen))


def test_a_file(tmp_path: Path) -> None:
    file = tmp_path / "clip.mkv"
    file.write_bytes(encoded(13, format="matroska"))
    assert not LiveVideo(str(file)).is_live
    assert_frames(read(str(file)), 4)
    assert len(read(str(file), fps=2)) == 7
    assert len(read(str(file), fps=100)) == 13


@pytest.mark.parametrize("kind", ["tcp", "pipe"])
def test_a_source_that_stalls_is_told_after_what_it_sent(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, seen = encoded(13), []
    with tcp_server(data, 20) if kind == "tcp" else pipe(data, 20) as source:
        if isinstance(source, int):
            monkeypatch.setattr(sys, "stdin", Stdin(source))
            source = "-"
        with pytest.raises(VideoError, match=r"stalled, no data for 0\.5 s"):  # noqa: PT012
            for frame in LiveVideo(source, timeout=0.5):
                seen.append(frame)
    assert_frames(seen[:3], 3)


def test_a_source_that_drops_leaves_what_it_sent() -> None:
    data = encoded(41)
    with tcp_server(data[: len(data) // 2]) as address:
        seen = []
        for frame in LiveVideo(address):
            seen.append(frame)
    assert 3 <= len(seen) < 11
    assert_frames(seen, len(seen))


def test_a_source_that_changes_size_is_scaled() -> None:
    with tcp_server(encoded(8) + encoded(8, size=96)) as address:
        live = LiveVideo(address)
        frames = list(live)
    assert {frame.image.shape for frame in frames} == {(64, 64, 3)}
    assert len(frames) >= 3
    assert len(live.notes) == 1
    assert "96x96 from" in live.notes[0]
    assert "scaled to 64x64" in live.notes[0]


def test_what_cannot_be_decoded_is_told(tmp_path: Path) -> None:
    data = bytearray(encoded(41, format="matroska"))
    for place in range(len(data) // 3, 2 * len(data) // 3, 29):
        data[place] ^= 0xFF
    (tmp_path / "clip.mkv").write_bytes(bytes(data))
    live = LiveVideo(str(tmp_path / "clip.mkv"))
    with contextlib.suppress(VideoError):  # it may end there
        list(live)
    assert any("cannot be decoded" in note or "damaged" in note for note in live.notes)


def test_a_clock_that_jumps_back_goes_on() -> None:
    with tcp_server(encoded(9) + encoded(9)) as address:
        frames = list(LiveVideo(address))
    assert len(frames) >= 4
    assert all(b.seconds > a.seconds for a, b in itertools.pairwise(frames))


def test_sources_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="no such video file"):
        read(str(tmp_path / "missing.mp4"))
    with pytest.raises(VideoError, match="cannot be opened"):
        read("tcp://127.0.0.1:1")
    with pytest.raises(
        VideoError, match=r"rtsp://\.\.\.@127\.0\.0\.1:1/x: the source cannot"
    ) as told:
        read("rtsp://me:secret@127.0.0.1:1/x")
    assert "secret" not in str(told.value)
    with tcp_server(b"") as address, pytest.raises(VideoError, match="cannot be opened"):
        read(address)
    with tcp_server(b"no video at all" * 1000) as address, pytest.raises(VideoError):
        read(address)
    with pytest.raises(VideoError, match="cannot be opened"):
        read(f"subfile://{tmp_path}")
    with pytest.raises(ConfigError, match="timeout: got 0"):
        LiveVideo("-", timeout=0)
    with pytest.raises(ConfigError, match="fps=0"):
        LiveVideo("-", fps=0)
