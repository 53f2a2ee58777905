"""Clients that are slow, many, nosy or gone: the others are served all the same."""

import hmac
import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpcore
import pytest

from sttm.server.config import Limits
from sttm.server.security import is_open

from .conftest import Running, Sample, request

Serve = Callable[..., Running]
KEY = "a long key"
CHAT = "/v1/chat/completions"


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_keys(serve: Serve, samples: list[Sample]) -> None:
    running = serve(keys=("another", KEY))
    assert running.call("GET", "/healthz")[0] == 200
    for path in ("/v1/models", "/metrics", "/v1/files", "/v1/videos", "/nothing"):
        for given in ({}, {"authorization": "Bearer wrong"}, {"authorization": KEY}):
            status, body = running.call("GET", path, **given)
            assert (status, body["error"]["code"]) == (401, "invalid_api_key")
    assert running.call("GET", "/v1/models", authorization=f"Bearer {KEY}")[0] == 200
    assert running.call("GET", "/v1/models", authorization="bearer another")[0] == 200
    assert running.ask(samples[3].url)[0] == 401
    assert running.store.misses == 0


def test_keys_are_compared_in_constant_time(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compared has one length, whatever was given, and every key is looked at."""
    compared: list[tuple[int, int]] = []
    real = hmac.compare_digest

    def compare(a: bytes, b: bytes) -> bool:
        compared.append((len(a), len(b)))
        return real(a, b)

    running = serve(keys=(KEY, "another"))
    monkeypatch.setattr(hmac, "compare_digest", compare)
    for given in (KEY, "x", "é" * 500):
        headers = [(b"Authorization", b"Bearer " + given.encode())]
        httpcore.request("GET", f"{running.url}/v1/models", headers=headers)
    assert compared == [(32, 32)] * 6


def test_an_open_server_is_told() -> None:
    assert is_open("0.0.0.0", ())
    assert not is_open("0.0.0.0", (KEY,))
    assert not is_open("127.0.0.1", ())


def preflight(running: Running, origin: str) -> dict[bytes, bytes]:
    headers: Any = {"origin": origin, "access-control-request-method": "POST"}
    done = httpcore.request("OPTIONS", running.url + CHAT, headers=headers)
    return {name.lower(): value for name, value in done.headers}


def test_web_pages_are_not_served_unless_their_origin_is_allowed(serve: Serve) -> None:
    allow = b"access-control-allow-origin"
    assert allow not in preflight(serve(), "https://page.example")
    running = serve(origins=("https://page.example",), keys=(KEY,))
    assert preflight(running, "https://page.example")[allow] == b"https://page.example"
    assert allow not in preflight(running, "https://other.example")


def test_names_that_a_page_may_have_pointed_here_need_a_key(serve: Serve) -> None:
    open_to_all, locked = serve(), serve(keys=(KEY,))
    for host in ("localhost", "127.0.0.1:80", "[::1]:80"):
        assert open_to_all.call("GET", "/v1/models", host=host)[0] == 200
    for host in ("evil.example", "127.0.0.1.evil.example:80", "", "[::1"):
        assert open_to_all.call("GET", "/v1/models", host=host)[0] in (400, 403)
    key = f"Bearer {KEY}"
    assert locked.call("GET", "/v1/models", host="video.example", authorization=key)[0] == 200


def test_requests_that_browsers_send_unasked_are_refused(
    serve: Serve, samples: list[Sample]
) -> None:
    running = serve()
    body = request(samples[3].url, "Which digit?")
    assert running.call("POST", CHAT, body, **{"content-type": "text/plain"})[0] == 415


def test_no_traces(
    serve: Serve,
    samples: list[Sample],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever fails inside: one line for the client, the rest for the log."""
    from sttm.server import app, scheduler

    def fail(*args: Any) -> Any:
        raise RuntimeError("a secret of /etc/passwd")

    running = serve()
    monkeypatch.setattr(scheduler, "feed", fail)
    with caplog.at_level(logging.CRITICAL):
        status, body = running.ask(samples[3].url)
        assert (status, body["error"]["type"]) == (500, "server_error")
        assert "secret" not in json.dumps(body)
        stream = request(samples[3].url, "Which digit?", stream=True)
        sent = json.dumps(stream).encode()
        headers: Any = {"content-type": "application/json"}
        done = httpcore.request("POST", running.url + CHAT, headers=headers, content=sent)
        assert b"internal_error" in done.content
        assert done.content.endswith(b"data: [DONE]\n\n")
        assert b"secret" not in done.content
        monkeypatch.setattr(app, "parse_request", fail)
        status, body = running.ask(samples[3].url)
    assert status == 500
    assert "secret" not in json.dumps(body)
    assert running.service._open == 0


def test_bodies_that_are_too_large(serve: Serve, samples: list[Sample]) -> None:
    running = serve(Limits(video_mib=0.001))
    most = running.service.config.limits.body_bytes
    assert running.ask("data:video/mp4;base64," + "A" * most)[0] == 413
    # Without a length, in chunks: the server stops reading.
    with socket.create_connection(("127.0.0.1", running.port)) as client:
        client.sendall(
            b"POST /v1/files HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
        )
        client.sendall(b"Content-Type: multipart/form-data; boundary=b\r\n\r\n")
        head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        client.sendall(b"%x\r\n%s\r\n" % (len(head), head))
        sent, chunk = 0, b"%x\r\n%s\r\n" % (1 << 16, bytes(1 << 16))
        try:
            while sent < 20 * most:
                client.sendall(chunk)
                sent += len(chunk)
        except OSError:
            pass
    assert sent < 20 * most
    assert running.call("GET", "/healthz")[0] == 200
    assert list(running.service.config.folder.iterdir()) == []


def closed_within(client: socket.socket, seconds: float) -> bytes:
    """Return what the server sends until it closes the connection."""
    client.settimeout(seconds)
    received = b""
    while part := client.recv(4096):
        received += part
    return received


def test_slow_heads_and_bodies(serve: Serve) -> None:
    running = serve(Limits(header_seconds=0.5, body_seconds=0.5))
    address = ("127.0.0.1", running.port)
    with socket.create_connection(address) as silent, socket.create_connection(address) as slow:
        slow.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n")
        assert running.call("GET", "/healthz")[0] == 200
        assert closed_within(silent, 10) == b""
        assert closed_within(slow, 10) == b""
    with socket.create_connection(address) as client:
        client.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n"
            b"Content-Type: application/json\r\n\r\n{"
        )
        answer = closed_within(client, 10)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"request_timeout" in answer


def test_a_kept_connection_may_send_a_second_head(serve: Serve) -> None:
    running = serve(Limits(header_seconds=0.5))
    with socket.create_connection(("127.0.0.1", running.port)) as client:
        for _ in range(2):
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            received = b""
            while not received.endswith(b'{"status":"ok"}'):
                received += client.recv(4096)
            assert received.startswith(b"HTTP/1.1 200")
        client.sendall(b"GET /heal")
        assert closed_within(client, 10) == b""


class Held:
    """Holds the watching of videos until it is let go."""

    def __init__(self, running: Running) -> None:
        self.go = threading.Event()
        self.begun = threading.Semaphore(0)
        running.store.watching = self._wait

    def _wait(self) -> None:
        self.begun.release()
        assert self.go.wait(60)


def test_too_many_at_once(serve: Serve, samples: list[Sample]) -> None:
    """Videos are counted, and so are answers; what is too much may come again."""
    running = serve(Limits(open_videos=1, open_answers=3))
    held = Held(running)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(running.ask, samples[0].url)
        assert held.begun.acquire(timeout=60)
        same = pool.submit(running.ask, samples[0].url)  # shares the work
        until(lambda: running.service._open == 2)
        body = json.dumps(request(samples[1].url, "Which digit?")).encode()
        headers: Any = {"content-type": "application/json"}
        done = httpcore.request("POST", running.url + CHAT, headers=headers, content=body)
        assert done.status == 429
        assert (b"retry-after", b"5") in [(n.lower(), v) for n, v in done.headers]
        third = pool.submit(running.ask, samples[0].url)
        until(lambda: running.service._open == 3)
        assert running.ask(samples[1].url)[1]["error"]["code"] == "rate_limit_exceeded"
        held.go.set()
        assert [each.result()[0] for each in (first, same, third)] == [200] * 3
    assert running.ask(samples[1].url)[0] == 200
    assert len(running.store.entries()) == 2


def send(running: Running, body: Any) -> socket.socket:
    """Send a request, and keep the connection."""
    content = json.dumps(body).encode()
    client = socket.create_connection(("127.0.0.1", running.port))
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    client.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    return client


@pytest.mark.parametrize("stream", [False, True])
def test_clients_that_leave_before_their_answer(
    serve: Serve, samples: list[Sample], stream: bool
) -> None:
    running = serve()
    held = Held(running)
    with send(running, request(samples[0].url, "Which digit?", stream=stream)):
        assert held.begun.acquire(timeout=60)
        assert running.service._open == 1
    until(lambda: running.service._open == 0)
    held.go.set()
    until(lambda: running.service.watcher.open == 0)
    assert running.service.scheduler.steps == 0
    assert running.ask(samples[0].url)[1]["sttm"]["cached"] is True  # the work was not for nothing


def test_a_video_that_nobody_waits_for_is_not_begun(serve: Serve, samples: list[Sample]) -> None:
    running = serve()
    held = Held(running)
    clients = [send(running, request(sample.url, "Which digit?")) for sample in samples]
    for _ in range(2):  # as many as there are threads
        assert held.begun.acquire(timeout=60)
    until(lambda: running.service.watcher.open == 4)
    for client in clients:
        client.close()
    until(lambda: running.service.watcher.open == 2)
    held.go.set()
    until(lambda: running.service.watcher.open == 0)
    assert len(running.store.entries()) == 2
    assert list(running.service.config.folder.iterdir()) == []


@pytest.mark.parametrize("stream", [False, True])
def test_clients_that_leave_within_their_answer(
    serve: Serve, samples: list[Sample], stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row goes: the model does not work for nobody."""
    from sttm.server.scheduler import _Answer

    running = serve()
    monkeypatch.setattr(_Answer, "take", endless(_Answer.take))
    with send(running, request(samples[3].url, "Which digit?", stream=stream, max_tokens=500)):
        until(lambda: running.service.scheduler.steps > 3)
    until(lambda: running.service.scheduler.open == 0)
    assert running.service._open == 0
    assert running.service.scheduler.steps < 400


def endless(take: Callable[..., bool]) -> Callable[..., bool]:
    """Let answers have no last token."""

    def taking(answer: Any, logits: Any) -> bool:
        answer._ends = set()
        time.sleep(0.01)
        return take(answer, logits)

    return taking


def test_a_stop_waits_for_answers(serve: Serve, samples: list[Sample]) -> None:
    running = serve()
    held = Held(running)
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(running.ask, samples[0].url, samples[0].question)
        assert held.begun.acquire(timeout=60)
        running.server.should_exit = True
        time.sleep(0.3)
        with pytest.raises(httpcore.ConnectError):
            running.call("GET", "/healthz")
        held.go.set()
        status, body = asked.result()
    assert status == 200
    assert body["choices"][0]["message"]["content"] == samples[0].answer
