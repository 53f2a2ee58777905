"""Videos that are meant to harm: the client gets an error, and the server goes on."""

import asyncio
import base64
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from sttm.errors import VideoError
from sttm.server import fetching
from sttm.server.config import MIB, Limits, ServerConfig
from sttm.server.decoding import Decoder
from sttm.server.fetching import is_allowed_host, is_public
from sttm.server.uploads import Uploads
from sttm.server.video_inputs import VideoInputs
from sttm.video import read_video, write_video

from .conftest import Running, Sample

Serve = Callable[..., Running]
SECRET = "swordfish"


def data_url(content: bytes) -> str:
    return "data:video/mp4;base64," + base64.b64encode(content).decode()


def refused(running: Running, url: str, status: int, code: str) -> str:
    """Ask about a video that is refused; the server answers, and tells nothing about itself."""
    got, body = running.ask(url)
    message = str(body["error"]["message"])
    assert (got, body["error"]["code"]) == (status, code), message
    for told in ("Traceback", "/tmp", str(Path.home()), SECRET, "sttm.", ".py"):
        assert told not in message.replace("sttm.keep", "")
    assert running.call("GET", "/healthz")[0] == 200
    assert running.service.watcher.open == 0
    assert running.service._open == 0
    return message


def assert_no_leftovers(running: Running) -> None:
    assert [path.name for path in running.service.config.folder.iterdir()] == []


@pytest.fixture
def allowed(tmp_path: Path, samples: list[Sample]) -> Path:
    """A folder whose files may be asked about, beside one whose files may not."""
    folder = tmp_path / "allowed"
    (folder / "below").mkdir(parents=True)
    inside = samples[3].path.read_bytes()
    (folder / "a.mp4").write_bytes(inside)
    (folder / "below" / "b c.mp4").write_bytes(inside)
    (tmp_path / f"{SECRET}.mp4").write_bytes(inside)
    (tmp_path / "allowed-not").mkdir()
    (tmp_path / "allowed-not" / "d.mp4").write_bytes(inside)
    (folder / "link.mp4").symlink_to(tmp_path / f"{SECRET}.mp4")
    (folder / "up").symlink_to(tmp_path)
    (folder / "same.mp4").symlink_to(folder / "a.mp4")
    os.mkfifo(folder / "pipe.mp4")
    return folder


def test_files_of_an_allowed_folder(serve: Serve, allowed: Path) -> None:
    running = serve(paths=(allowed,))
    for name in ("a.mp4", "below/b%20c.mp4", "below/../a.mp4", "same.mp4"):
        assert running.ask(f"file://{allowed}/{name}")[0] == 200, name
    assert running.ask(f"file://localhost{allowed}/a.mp4")[0] == 200
    assert (allowed / "a.mp4").exists()  # it is the owner's, not the request's


@pytest.mark.parametrize(
    "name",
    [
        f"../{SECRET}.mp4",
        f"%2e%2e/{SECRET}.mp4",
        f"below/../../{SECRET}.mp4",
        "../allowed-not/d.mp4",
        "link.mp4",
        f"up/{SECRET}.mp4",
        "missing.mp4",
        "a.mp4%00.txt",
        "",
        "below",
        "pipe.mp4",
        "a.mp4?x",
        "a" * 5000,
    ],
)
def test_other_files_are_refused(serve: Serve, allowed: Path, name: str) -> None:
    refused(serve(paths=(allowed,)), f"file://{allowed}/{name}", 403, "path_not_allowed")


def test_no_file_is_allowed_unless_a_folder_is(serve: Serve, allowed: Path) -> None:
    running = serve()
    refused(running, f"file://{allowed}/a.mp4", 403, "path_not_allowed")
    refused(running, "file:///dev/zero", 403, "path_not_allowed")
    refused(running, f"file://elsewhere{allowed}/a.mp4", 403, "path_not_allowed")
    refused(running, str(allowed / "a.mp4"), 400, "invalid_value")
    refused(running, "file-0123", 404, "file_not_found")
    refused(running, "gopher://127.0.0.1/", 400, "invalid_value")
    refused(running, "http://[", 400, "invalid_value")


class Site:
    """A web site on loopback."""

    def __init__(self, video: bytes) -> None:
        self.asked: list[str] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                site.asked.append(self.path)
                if self.path.startswith("/to?"):
                    self.send_response(302)
                    self.send_header("Location", self.path[4:])
                    self.end_headers()
                    return
                if self.path == "/loop":
                    self.send_response(302)
                    self.send_header("Location", "/loop")
                    self.end_headers()
                    return
                self.send_response(200 if self.path.startswith("/v") else 404)
                self.end_headers()
                self.wfile.write(video if self.path == "/v.mp4" else video * 50)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def site(samples: list[Sample]) -> Iterator[Site]:
    made = Site(samples[3].path.read_bytes())
    yield made
    made.server.shutdown()
    made.server.server_close()


def test_a_download(serve: Serve, site: Site, samples: list[Sample]) -> None:
    limits = Limits(video_mib=20 * samples[3].path.stat().st_size / MIB)
    running = serve(limits, hosts=("localhost",), private_hosts=True)
    here = f"http://localhost:{site.port}"
    for url in (f"{here}/v.mp4", f"{here}/to?/v.mp4", f"{here}/to?{here}/v.mp4"):
        status, body = running.ask(url, samples[3].question)
        assert status == 200, body
        assert body["choices"][0]["message"]["content"] == samples[3].answer
    assert_no_leftovers(running)
    refused(running, f"{here}/none.mp4", 400, "video_not_reachable")
    refused(running, f"{here}/loop", 400, "video_not_reachable")
    refused(running, f"{here}/v-large.mp4", 413, "video_too_large")
    refused(running, f"{here}/to?http://127.0.0.1:{site.port}/v.mp4", 403, "host_not_allowed")
    refused(running, f"{here}/to?file:///etc/passwd", 403, "host_not_allowed")
    refused(running, "http://localhost:1/v.mp4", 400, "video_not_reachable")
    refused(running, f"http://u:p@localhost:{site.port}/v.mp4", 403, "host_not_allowed")
    refused(running, f"{here}/v\r\nX: y", 413, "video_too_large")
    assert site.asked[-1] == "/v%0D%0AX:%20y"  # one request with no header of the client's
    assert_no_leftovers(running)


def test_hosts_that_are_not_allowed(serve: Serve, site: Site) -> None:
    refused(serve(), f"http://127.0.0.1:{site.port}/v.mp4", 403, "host_not_allowed")
    running = serve(hosts=("example.com",), private_hosts=True)
    for host in ("localhost", "127.0.0.1", "example.com.localhost", "example.com@localhost"):
        refused(running, f"http://{host}:{site.port}/v.mp4", 403, "host_not_allowed")
    assert site.asked == []


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "169.254.169.254",
        "::1",
        "fe80::1%eth0",
        "::ffff:127.0.0.1",
        "0.0.0.0",
    ],
)
def test_names_that_resolve_to_private_addresses(
    serve: Serve, site: Site, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """One private address among public ones is enough: which is connected to is not ours to say."""
    running = serve(hosts=("*.example.com",))

    async def resolve(host: str, port: int) -> list[str]:
        assert host == "video.example.com"
        return ["93.184.215.14", address]

    monkeypatch.setattr(fetching, "resolve", resolve)
    url = f"http://video.example.com:{site.port}/v.mp4"
    refused(running, url, 403, "address_not_allowed")
    assert site.asked == []


def test_the_checked_address_is_the_one_connected_to(
    site: Site, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A name that changes its address between check and connection is asked only once."""
    asked = []

    async def resolve(host: str, port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    monkeypatch.setattr(fetching, "resolve", resolve)
    monkeypatch.setattr(fetching, "is_public", lambda address: address == "127.0.0.1")
    fetcher = fetching.Fetcher(("video.invalid",), private=False, most=10**6, seconds=10)
    url = f"http://video.invalid:{site.port}/v.mp4"  # no resolver knows this name
    asyncio.run(fetcher.fetch(url, tmp_path / "v.mp4"))
    assert asked == ["video.invalid"]
    assert (tmp_path / "v.mp4").stat().st_size


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        ("93.184.215.14", True),
        ("2606:4700::1111", True),
        ("192.168.1.1", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("fc00::1", False),
    ],
)
def test_public_addresses(address: str, wanted: bool) -> None:
    assert is_public(address) is wanted


def test_allowed_hosts() -> None:
    allowed = ("example.com", "*.media.org")
    assert is_allowed_host("example.com", allowed)
    assert is_allowed_host("a.b.media.org", allowed)
    for host in ("media.org", "evilmedia.org", "a.example.com", "example.com.evil.org", ""):
        assert not is_allowed_host(host, allowed)


def test_a_slow_host(serve: Serve) -> None:
    """A host that sends a byte now and then ends with the download's time."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        running = serve(Limits(fetch_seconds=0.5), hosts=("127.0.0.1",), private_hosts=True)
        message = refused(running, f"http://127.0.0.1:{port}/v.mp4", 400, "video_not_reachable")
    assert "more than 0.5 s" in message
    assert_no_leftovers(running)


def video_bytes(tmp_path: Path, frames: int, size: int, fps: float) -> bytes:
    path = tmp_path / f"{frames}-{size}-{fps}.mp4"
    write_video(np.zeros((frames, size, size, 3), np.uint8), path, fps=fps)
    return path.read_bytes()


def test_files_that_are_no_videos(serve: Serve, samples: list[Sample], tmp_path: Path) -> None:
    running = serve(Limits(video_mib=1))
    good = samples[0].path.read_bytes()
    private = tmp_path / f"{SECRET}.mp4"
    private.write_bytes(good)
    playlist = f"#EXTM3U\n#EXTINF:9.0,\nfile://{private}\n#EXT-X-ENDLIST\n".encode()
    concat = f"ffconcat version 1.0\nfile '{private}'\n".encode()
    manifest = b"\x00\x00\x00\x18ftypmp42" + f"<MPD><BaseURL>{private}</BaseURL></MPD>".encode()
    for content in (
        b"",
        b"hello",
        playlist,
        concat,
        manifest,
        good[:200],
        good[:8] + b"\xff" * 5000,
        bytes(8) + good,
        b"G" + playlist,
        b"RIFF" + bytes(100),
        b"\x1a\x45\xdf\xa3" + bytes(range(256)) * 20,
    ):
        refused(running, data_url(content), 400, "invalid_video")
    refused(running, data_url(bytes(2 * 10**6)), 413, "video_too_large")
    refused(running, "data:video/mp4,hello", 400, "invalid_value")
    refused(running, "data:video/mp4;base64,????", 400, "invalid_value")
    refused(running, "data:", 400, "invalid_value")
    assert_no_leftovers(running)


def test_a_truncated_file_is_watched_as_far_as_it_goes(
    serve: Serve, samples: list[Sample], tmp_path: Path
) -> None:
    """A recording that was cut off: its answer comes with a warning."""
    path = tmp_path / "cut.mkv"
    noise = np.random.default_rng(0).integers(0, 255, (40, 64, 64, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=2)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for picture in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    content = path.read_bytes()
    status, body = serve().ask(data_url(content[: len(content) * 2 // 3]))
    assert status == 200, body
    assert body["sttm"]["warnings"]


def test_bombs(serve: Serve, tmp_path: Path) -> None:
    limits = Limits(video_seconds=60, video_pixels=256 * 256)
    running = serve(limits)
    long = refused(running, data_url(video_bytes(tmp_path, 62, 64, 1)), 400, "invalid_video")
    assert "got a video of 62 s, expected at most 60" in long
    hours = refused(running, data_url(video_bytes(tmp_path, 2, 64, 0.001)), 400, "invalid_video")
    assert "expected at most 60" in hours
    large = refused(running, data_url(video_bytes(tmp_path, 2, 512, 1)), 400, "invalid_video")
    assert "got frames of 512x512 pixels" in large
    assert_no_leftovers(running)


def test_a_decoder_has_an_end_to_time_and_memory(
    serve: Serve, samples: list[Sample], tmp_path: Path
) -> None:
    slow = serve(Limits(decode_seconds=0.05))
    assert "more than 0.05 s" in refused(slow, samples[0].url, 400, "invalid_video")
    small = serve(Limits(decode_mib=400))
    content = data_url(video_bytes(tmp_path, 40, 1024, 1))
    assert "memory" in refused(small, content, 400, "invalid_video")
    assert_no_leftovers(small)


def test_no_decoder_outlives_its_request(serve: Serve, samples: list[Sample]) -> None:
    running = serve(Limits(decode_seconds=0.05))
    running.ask(samples[0].url)
    listed = subprocess.run(["ps", "-o", "args=", "--ppid", str(os.getpid())], capture_output=True)
    assert b"decode_worker" not in listed.stdout


def test_the_decoder_follows_no_reference_whatever_came_before_it(
    samples: list[Sample], tmp_path: Path
) -> None:
    """What the first look at a file misses: a list of other files is no video."""
    (tmp_path / "a.mp4").write_bytes(samples[3].path.read_bytes())
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile a.mp4\n")
    assert len(read_video(tmp_path / "list.mp4")) > 1  # libav would follow it
    with pytest.raises(VideoError, match=r"^the video: "):
        Decoder(Limits())(tmp_path / "list.mp4", fps=1, max_frames=8, rule="llava")


def test_a_request_that_ends_within_its_data_url_leaves_no_file(
    tmp_path: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = Limits()
    inputs = VideoInputs(ServerConfig("nano", tmp_path, limits=limits), Uploads(tmp_path, limits))
    begun, go, done = threading.Event(), threading.Event(), threading.Event()
    decode = inputs._decode

    def decoding(url: str) -> Any:
        begun.set()
        assert go.wait(60)
        try:
            return decode(url)
        finally:
            done.set()

    monkeypatch.setattr(inputs, "_decode", decoding)

    async def leave() -> None:
        asked = asyncio.create_task(inputs.find(samples[3].url))
        await asyncio.to_thread(begun.wait, 60)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        go.set()
        await asyncio.to_thread(done.wait, 60)

    asyncio.run(leave())
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_server_left_is_deleted(tmp_path: Path, samples: list[Sample]) -> None:
    """A day later: another server with the same folder may be at work on what is newer."""
    kept = Uploads(tmp_path, Limits()).add(samples[3].path.open("rb"), "a.mp4", "vision")
    names = ["request-1", "upload-1", f"file-{'0' * 24}.video", "somebody.txt"]
    for name in names:
        (tmp_path / name).write_bytes(b"x")
    present = {path.name for path in tmp_path.iterdir()}
    Uploads(tmp_path, Limits())
    assert {path.name for path in tmp_path.iterdir()} == present
    for path in tmp_path.iterdir():
        os.utime(path, (0, 0))
    uploads = Uploads(tmp_path, Limits())
    assert {path.name for path in tmp_path.iterdir()} == present - set(names[:3])
    assert uploads.list() == [kept]
