"""A real RTSP server, over TCP and UDP: it stalls, is killed, comes back, changes its size."""

import signal
import time

import pytest

from sttm.errors import VideoError
from sttm.video.live import LiveFrame, LiveVideo

from .live_sources import rtsp_server

pytestmark = pytest.mark.slow


def seconds(frames: list[LiveFrame]) -> list[int]:
    """Check that the picture is white, and return the frames' times."""
    assert all(frame.image.shape == (64, 64, 3) for frame in frames)
    assert all(frame.image.mean() > 240 for frame in frames)
    return [round(frame.seconds) for frame in frames]


@pytest.mark.parametrize("path", ["/short", "/datagrams"])
def test_a_source_that_ends(path: str) -> None:
    with rtsp_server() as (address, _):
        assert seconds(list(LiveVideo(address + path))) == [0, 1, 2, 3]


def test_another_size_from_the_third_second_on() -> None:
    with rtsp_server() as (address, _):
        live = LiveVideo(f"{address}/resized")
        found = [frame for frame, _ in zip(live, range(6))]
    assert seconds(found) == [0, 1, 2, 3, 4, 5]
    assert any("frames of 96x96" in note for note in live.notes)


def test_a_server_that_stalls() -> None:
    """It is given up after the timeout, not after twice that."""
    found, timeout = list[LiveFrame](), 2.0
    with rtsp_server() as (address, server):
        frames = iter(LiveVideo(f"{address}/live", timeout=timeout))
        found += [next(frames), next(frames)]
        server.send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        with pytest.raises(VideoError, match="stalled, no data for 2 s"):
            found += frames
        assert timeout <= time.monotonic() - stopped < 1.8 * timeout
    assert seconds(found)[:2] == [0, 1]


def test_a_server_that_is_killed_and_comes_back() -> None:
    with rtsp_server() as (address, server):
        frames = iter(LiveVideo(f"{address}/live", timeout=2.0))
        found = [next(frames), next(frames)]
        server.kill()
        found += frames
        assert seconds(found)[:2] == [0, 1]
        with pytest.raises(VideoError, match="cannot be opened"):
            list(LiveVideo(f"{address}/live"))
    with rtsp_server(address.rpartition(":")[2]) as (again, _):
        assert again == address
        assert seconds(list(LiveVideo(f"{address}/short"))) == [0, 1, 2, 3]


def test_a_path_that_is_none() -> None:
    with rtsp_server() as (address, _), pytest.raises(VideoError, match="404 Not Found"):
        list(LiveVideo(f"{address}/nothing"))
