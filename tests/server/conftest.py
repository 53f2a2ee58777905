"""A real server on loopback, with nano and a store in memory."""

import base64
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")

import httpcore
import uvicorn

import sttm
from sttm import nano
from sttm.chat import PrefilledVideo, VideoChat, VideoStore
from sttm.server.answering import Service
from sttm.server.config import Limits, ServerConfig
from sttm.server.decoding import Decoder
from sttm.server.running import make_server
from sttm.server.watching import Chats

NAME = "nano"


class PausedStore(VideoStore):
    """A store in memory that tells when a video is going to be watched."""

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(folder)
        self.watching: Callable[[], None] = lambda: None

    def watch(self, chat: VideoChat, video: Any, **sampling: Any) -> PrefilledVideo:
        self.watching()
        return super().watch(chat, video, **sampling)


@dataclass
class Running:
    """A server that runs."""

    url: str
    port: int
    service: Service
    store: PausedStore
    server: uvicorn.Server

    def call(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Send a request; return the status and the JSON."""
        import json

        content = None if body is None else json.dumps(body).encode()
        named: Any = {"content-type": "application/json", **headers}
        done = httpcore.request(method, self.url + path, headers=named, content=content)
        return done.status, json.loads(done.content)

    def found(self, how: str) -> float:
        """Return how many videos were in the store, watched or joined."""
        return self.service.metrics.videos.labels(how)._value.get()  # type: ignore[no-any-return]

    def ask(self, url: str, question: str = "Which digit appears?", **more: Any) -> tuple[int, Any]:
        """Ask one question about a video."""
        return self.call("POST", "/v1/chat/completions", request(url, question, **more))


def request(url: str, question: str, **more: Any) -> dict[str, Any]:
    part = {"type": "video_url", "video_url": {"url": url}}
    content = [part, {"type": "text", "text": question}]
    messages = [{"role": "user", "content": content}]
    return {"model": NAME, "messages": messages, "max_tokens": 8, **more}


@pytest.fixture(scope="session")
def model() -> tuple[Any, Any]:
    return nano.load()


def reduction(keep: Any, method: str | None = None) -> Any:
    keep = 0.3 if keep is None else keep
    return None if keep == 1.0 else sttm.get_method(method or "sttm", keep=keep)


@pytest.fixture
def serve(model: tuple[Any, Any], tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start servers, each with its own configuration, and stop them in the end."""
    with contextmanagers() as enter:

        def start(limits: Limits | None = None, **options: Any) -> Running:
            folder = tmp_path / f"files{len(list(tmp_path.iterdir()))}"
            folder.mkdir()
            limits = limits or Limits()
            config = ServerConfig(NAME, folder, max_frames=32, limits=limits, **options)
            return enter(running(model, config))  # type: ignore[no-any-return]

        yield start


@contextmanager
def contextmanagers() -> Iterator[Callable[[Any], Any]]:
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield stack.enter_context


@contextmanager
def running(
    model: tuple[Any, Any], config: ServerConfig, store_folder: Path | None = None
) -> Iterator[Running]:
    store = PausedStore(store_folder)
    decoder = Decoder(config.limits)
    chats = Chats(
        *model,
        reduction,
        layer=nano.NANO_LAYER,
        positions=nano.NANO_POSITIONS,
        reader=decoder,
    )
    service = Service(config, chats, store)
    server = make_server(service)
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    port = listener.getsockname()[1]
    try:
        yield Running(f"http://127.0.0.1:{port}", port, service, store, server)
    finally:
        server.should_exit = True
        thread.join(timeout=60)
        assert not thread.is_alive()


@dataclass
class Sample:
    """A clip of nano's, as a file, and a question whose answer nano gives."""

    path: Path
    question: str
    answer: str

    @property
    def url(self) -> str:
        return "data:video/mp4;base64," + base64.b64encode(self.path.read_bytes()).decode()


@pytest.fixture(scope="session")
def samples(model: tuple[Any, Any], tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Clips of different lengths; the answers are the chat's own."""
    folder, made = tmp_path_factory.mktemp("clips"), []
    for seed, frames in ((3, 32), (5, 12), (8, 20), (11, 6)):
        clip = nano.make_clip(seed, frames)
        path = folder / f"{seed}.mp4"
        nano.write_clip(clip, path)
        question = nano.make_questions(clip, 0)[1].text
        with VideoChat(
            *model, reduction(None), layer=nano.NANO_LAYER, positions=nano.NANO_POSITIONS
        ) as chat:
            answer = chat.watch(path, max_frames=32).ask(question, max_new_tokens=8).text
        made.append(Sample(path, question, answer))
    return made
