"""Sources of live video for tests: threads that write to pipes and sockets of this machine."""

import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import numpy as np
import pytest


def encoded(
    frames: int, *, size: int = 64, fps: int = 4, format: str = "mpegts", seed: int = 0
) -> bytes:
    """Encode frames whose grey value is ``8 * number``, modulo 256."""
    file = io.BytesIO()
    with av.open(file, "w", format=format) as container:
        stream = container.add_stream(
            "libx264", rate=fps, options={"g": "2", "tune": "zerolatency"}
        )
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            grey = np.full((size, size, 3), 8 * number % 256, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def send(data: bytes, write: Callable[[bytes], object], stall: float = 0.0) -> None:
    """Write data, and wait before the last byte if it is to stall."""
    try:
        write(data)
        time.sleep(stall)
    except (BrokenPipeError, ConnectionError):
        pass  # the reader has gone


@contextmanager
def tcp_server(data: bytes, stall: float = 0.0) -> Iterator[str]:
    """Serve data to the first who comes; the address."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            send(data, connection.sendall, stall)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"tcp://127.0.0.1:{server.getsockname()[1]}"
    finally:
        server.close()


@contextmanager
def http_server(data: bytes) -> Iterator[str]:
    """Serve data in one chunk to everybody who asks; the address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            chunk = b"%x\r\n%b\r\n" % (len(data), data) if data else b""
            send(chunk + b"0\r\n\r\n", self.wfile.write)

        def log_message(self, *given: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/live.ts"
        server.shutdown()


@contextmanager
def pipe(data: bytes, stall: float = 0.0) -> Iterator[int]:
    """Write data into a pipe; the end to read from."""
    reader, writer = os.pipe()

    def write() -> None:
        with os.fdopen(writer, "wb", buffering=0) as file:
            send(data, file.write, stall)

    threading.Thread(target=write, daemon=True).start()
    try:
        yield reader
    finally:
        os.close(reader)


def rtsp_python() -> str | None:
    """Return a Python that can run an RTSP server of GStreamer; None if there is none."""
    check = "import gi; gi.require_version('GstRtspServer', '1.0')"
    for name in (sys.executable, shutil.which("python3"), "/usr/bin/python3"):
        if name and not subprocess.run([name, "-c", check], capture_output=True).returncode:
            return name
    return None


@contextmanager
def rtsp_server(*arguments: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run `rtsp_server.py`; its address without a path, and its process.

    Skips the test where no such server is installed.
    """
    python = rtsp_python()
    if python is None:
        pytest.skip("no RTSP server: needs python3-gi and gir1.2-gst-rtsp-server-1.0 of Debian")
    command = [python, str(Path(__file__).with_name("rtsp_server.py")), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield f"rtsp://127.0.0.1:{int(server.stdout.readline())}", server
        finally:
            server.send_signal(signal.SIGKILL)
