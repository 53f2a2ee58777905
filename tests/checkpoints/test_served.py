"""Folders of ``sttm convert --serve``, run by transformers itself."""

import base64
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForImageTextToText, AutoProcessor

import sttm
from sttm import nano
from sttm.checkpoints.served import write_served
from sttm.errors import ConfigError
from tests.cli.marks import needs_nano

pytestmark = needs_nano
QUESTION, ANSWER = "What digit is shown in green?", "6"


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    nano.write_clip(nano.make_clip(40_000_000, 32), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("served") / "nano"
    options: dict[str, Any] = {"layer": nano.NANO_LAYER, "positions": nano.NANO_POSITIONS}
    write_served(str(nano.weights_path()), out, sttm.STTM(keep=0.3), **options)
    return out


def inputs(processor: Any, url: str) -> Any:
    content = [{"type": "video", "url": url}, {"type": "text", "text": QUESTION}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        load_audio_from_video=True,  # as transformers serve asks
        processor_kwargs={"num_frames": 32},
    )


def test_from_pretrained_and_custom_generate(
    folder: Path, clip: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    url = "data:video/mp4;base64," + base64.b64encode(clip.read_bytes()).decode()
    made = inputs(processor, url)
    assert (made["input_ids"] == inputs(processor, str(clip))["input_ids"]).all()
    plain: Any = nano.load()[0]
    served = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
    asked: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False}
    cases: list[tuple[Any, str]] = [
        (lambda: plain.generate(**made, **asked), ""),
        (lambda: served.float().generate(**made, **asked), "sttm: 2048 -> 614 video tokens\n"),
        (
            lambda: plain.generate(
                **made, **asked, custom_generate=str(folder), trust_remote_code=True
            ),
            "sttm: 2048 -> 614 video tokens\n",
        ),
    ]
    for run, wanted in cases:
        ids = run()[0, made["input_ids"].shape[1] :]
        assert processor.decode(ids, skip_special_tokens=True).strip() == ANSWER
        told = "".join(line for line in capfd.readouterr().err.splitlines(True) if "sttm" in line)
        assert told == wanted
    with pytest.raises(ValueError, match="trust_remote_code"):  # nobody's code runs unasked
        plain.generate(**made, **asked, custom_generate=str(folder), trust_remote_code=False)


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")
    httpcore = pytest.importorskip("httpcore")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("log") / "log.txt"
    program = Path(sys.executable).parent / "transformers"
    command: list[str | Path] = [
        program,
        "serve",
        folder,
        "--trust-remote-code",
        "--port",
        str(port),
    ]
    command += ["--host", "127.0.0.1", "--device", "cpu", "--dtype", "float32"]
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    url = f"http://127.0.0.1:{port}"
    with (
        log.open("w") as out,
        subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=env) as process,
    ):
        try:
            for _ in range(600):
                assert process.poll() is None, log.read_text()
                try:
                    httpcore.request("GET", f"{url}/health")
                    break
                except httpcore.ConnectError:
                    time.sleep(0.1)
            yield url, log
        finally:
            process.terminate()


def test_transformers_serve_runs_reduced(
    server: tuple[str, Path], folder: Path, clip: Path
) -> None:
    openai = pytest.importorskip("openai")
    url, log = server
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    video = "data:video/mp4;base64," + base64.b64encode(clip.read_bytes()).decode()
    parts = [
        {"type": "video_url", "video_url": {"url": video}},
        {"type": "text", "text": QUESTION},
    ]
    asked = {"model": str(folder), "messages": [{"role": "user", "content": parts}]}
    answer = client.chat.completions.create(**asked, max_tokens=4)
    assert answer.choices[0].message.content == ANSWER
    chunks = client.chat.completions.create(**asked, max_tokens=4, stream=True)
    texts = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(texts).strip() == ANSWER
    until = time.monotonic() + 20  # it is told behind the last token
    while log.read_text().count("sttm: 2048 -> 614 video tokens") < 2:
        assert time.monotonic() < until
        time.sleep(0.1)


def test_what_cannot_be_written(folder: Path, tmp_path: Path) -> None:
    method = sttm.STTM(keep=0.3)
    with pytest.raises(ConfigError, match="a place that is taken"):
        write_served(str(nano.weights_path()), folder, method)
    with pytest.raises(ConfigError, match="no preprocessor_config"):
        write_served(str(tmp_path), tmp_path / "out", method)
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "OwnOne"}))
    with pytest.raises(ConfigError, match="got the processor OwnOne, expected one of transformers"):
        write_served(str(tmp_path), tmp_path / "out", method)


@pytest.mark.parametrize("mode", ["frame", "grid"])
def test_newlines_that_transformers_does_not_place(mode: str, tmp_path: Path) -> None:
    """A converted model says where they stand; transformers' own classes do not read that."""
    converted = tmp_path / "converted"
    shutil.copytree(nano.weights_path(), converted)
    config = json.loads((converted / "config.json").read_text())
    for each in (mode, "no_token", "one_token"):
        text = json.dumps(config | {"mm_newline_position": each})
        (converted / "config.json").write_text(text)
        out = tmp_path / each
        if each == mode:
            with pytest.raises(ConfigError, match=f"got mm_newline_position '{mode}', expected"):
                write_served(str(converted), out, sttm.STTM(keep=0.3))
            assert not out.exists()
        else:
            assert write_served(str(converted), out, sttm.STTM(keep=0.3))
