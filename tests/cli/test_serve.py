"""``sttm serve`` as a process: it answers, keeps what it watched, and stops when told."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from .conftest import Run
from .marks import needs_nano

httpcore = pytest.importorskip("httpcore", reason="the extra 'serve' is not installed")
pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
pytestmark = needs_nano


@contextmanager
def serving(
    *arguments: str, command: str = "serve", **environment: str
) -> Iterator[dict[str, Any]]:
    """Run a server until the block ends; yields what it prints when it is ready."""
    command_line = [sys.executable, "-m", "sttm", command, "--port", "0", "--json", *arguments]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", **environment}
    with subprocess.Popen(command_line, stdout=subprocess.PIPE, env=env, text=True) as process:
        assert process.stdout is not None
        text = ""
        while not text.rstrip().endswith("}"):
            line = process.stdout.readline()
            assert line, f"the server ended with {process.wait()}"
            text += line
        try:
            yield json.loads(text)
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) in (0, -signal.SIGTERM)


def ask(serving: dict[str, Any], url: str, key: str = "none") -> tuple[int, Any]:
    parts = [
        {"type": "video_url", "video_url": {"url": url}},
        {"type": "text", "text": "How many?"},
    ]
    body = {"model": serving["model"], "messages": [{"role": "user", "content": parts}]}
    done = httpcore.request(
        "POST",
        f"{serving['url']}/v1/chat/completions",
        headers={"content-type": "application/json", "authorization": f"Bearer {key}"},
        content=json.dumps(body).encode(),
    )
    return done.status, json.loads(done.content)


def test_a_restart_keeps_what_was_watched(clip: Path, tmp_path: Path) -> None:
    url = "data:video/mp4;base64," + base64.b64encode(clip.read_bytes()).decode()
    store = ("--store", str(tmp_path / "store"), "--max-frames", "8")
    with serving(*store, STTM_API_KEYS="one, two") as first:
        assert first["method"] == "sttm, keep 0.3"
        assert first["needs_key"] is True
        assert ask(first, url)[0] == 401
        status, body = ask(first, url, key="two")
        assert (status, body["sttm"]["cached"]) == (200, False)
        wanted = body["choices"][0]["message"]["content"]
    with serving(*store, "--name", "small") as second:
        assert (second["model"], second["needs_key"]) == ("small", False)
        status, body = ask(second, url)
        assert (status, body["sttm"]["cached"]) == (200, True)
        assert body["choices"][0]["message"]["content"] == wanted
        status, listed = 200, httpcore.request("GET", f"{second['url']}/v1/videos").content
        (video,) = json.loads(listed)["data"]
        assert video["id"] == body["sttm"]["video_id"]
        assert video["tokens_out"] == body["sttm"]["tokens_out"]
        assert "/" not in video["name"]
    assert [p.name for p in (tmp_path / "store" / "files").iterdir()] == []


def test_a_folder_and_its_limits(clip: Path) -> None:
    with serving(
        "--allow-path", str(clip.parent), "--max-keep", "0.5", "--video-seconds", "5"
    ) as s:
        status, body = ask(s, f"file://{clip}")
        assert (status, body["error"]["code"]) == (400, "invalid_video")
        assert "expected at most 5" in body["error"]["message"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--max-keep", "0"), "--max-keep: got 0.0, expected more than 0"),
        (("--allow-path", "no-such-folder"), "--allow-path: got no-such-folder"),
        (("--disk-mib", "5"), "got --disk-mib with no --store"),
        (("--full", "--layer", "1"), "got --layer with --full"),
        (("--keep", "1.5"), "--keep"),
        (("--method", "fastv:keep=0.3"), "drops tokens by the question"),
    ],
)
def test_what_cannot_be_served(run: Run, arguments: tuple[str, ...], said: str) -> None:
    result = run("serve", "--port", "0", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_port_that_is_taken(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = run("serve", "--port", port)
    assert result.exit_code == 2
    assert f"--port {port}: cannot listen there" in result.stderr
    assert result.stderr.count("\n") <= 3


def test_ui_is_the_server_with_a_page_in_a_browser(tmp_path: Path) -> None:
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f"#!/bin/sh\necho $1 > {opened}\n")
    browser.chmod(0o755)
    with serving(command="ui", BROWSER=str(browser)) as found:
        page = httpcore.request("GET", f"{found['url']}/")
        assert b"sttm" in page.content
        assert json.loads(httpcore.request("GET", f"{found['url']}/v1/samples").content)["data"]
        for _ in range(100):
            if opened.exists() and opened.read_text().strip():
                break
            time.sleep(0.1)
        assert opened.read_text().strip() == found["url"]
