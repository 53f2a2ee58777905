"""``vllm serve`` with an mp4 in the request, as the openai client sends it."""

import base64
import io
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sttm import nano

from .conftest import Checkpoint
from .engine import ENVIRONMENT

FRAMES, PER_FRAME = 24, 64
CLIP = nano.make_clip(30_000_001, FRAMES)
QUESTIONS = [question for question in nano.make_questions(CLIP, 0) if question.task != "count"]
_SETTINGS = {
    "video-pruning-rate": "0.5",
    "hf-overrides": '{"sttm": {"method": "sttm"}}',
    "dtype": "float32",
    "max-model-len": "4096",
    "max-num-seqs": "4",
    "block-size": "32",
    "served-model-name": "nano",
}
_SWITCHES = ("enforce-eager", "trust-request-mm-kwargs", "enable-prompt-tokens-details")


@pytest.fixture(scope="module")
def client(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Start a server with nano; return a client of it."""
    from openai import APIConnectionError, OpenAI

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("vllm")), "serve", checkpoint("nano")]
    command += [part for name, value in _SETTINGS.items() for part in (f"--{name}", value)]
    command += [f"--{name}" for name in _SWITCHES]
    env = {**os.environ, **ENVIRONMENT, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    log = tmp_path_factory.mktemp("serve") / "log"
    with log.open("w") as out:
        server = subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            env=env,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    openai = OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    try:
        for second in range(901):
            assert server.poll() is None, log.read_text()[-6000:]
            assert second < 900, log.read_text()[-6000:]
            try:
                openai.models.list()
                break
            except APIConnectionError:
                time.sleep(1)
        yield openai
    finally:
        server.terminate()
        server.wait(60)


def ask(client: Any, *turns: str, **kwargs: Any) -> Any:
    """Ask about the clip; turns are question, answer, question, ..."""
    file = io.BytesIO()
    nano.write_clip(CLIP, file)
    url = "data:video/mp4;base64," + base64.b64encode(file.getvalue()).decode()
    messages: list[Any] = [
        {"role": "assistant" if i % 2 else "user", "content": [{"type": "text", "text": text}]}
        for i, text in enumerate(turns)
    ]
    messages[0]["content"].insert(0, {"type": "video_url", "video_url": {"url": url}})
    return client.chat.completions.create(
        model="nano",
        messages=messages,
        max_tokens=4,
        temperature=0,
        extra_body={"mm_processor_kwargs": kwargs} if kwargs else {},
    )


def test_questions_and_turns_share_the_video(client: Any) -> None:
    first, second = QUESTIONS[:2]
    answers = [ask(client, first.text), ask(client, second.text)]
    answers.append(ask(client, first.text, first.answer, second.text))
    whole = ask(client, first.text, sttm_keep=1.0)
    said = [answer.choices[0].message.content.strip() for answer in (*answers, whole)]
    assert said == [first.answer, second.answer, second.answer, first.answer]
    cached = [answer.usage.prompt_tokens_details.cached_tokens or 0 for answer in (*answers, whole)]
    assert cached[0] == cached[3] == 0  # another budget is another video
    assert cached[1] >= FRAMES * PER_FRAME // 2 - 32
    assert cached[2] >= FRAMES * PER_FRAME // 2
    removed = whole.usage.prompt_tokens - answers[0].usage.prompt_tokens
    assert removed == FRAMES * PER_FRAME // 2


def test_a_request_has_its_own_budget(client: Any) -> None:
    question = QUESTIONS[0].text
    tokens = [ask(client, question, sttm_keep=k).usage.prompt_tokens for k in (1.0, 0.25, 100)]
    assert tokens[0] - tokens[1] == FRAMES * PER_FRAME * 3 // 4
    assert tokens[0] - tokens[2] == FRAMES * PER_FRAME - 100


def test_a_bad_budget_is_an_error_of_the_request(client: Any) -> None:
    from openai import BadRequestError

    with pytest.raises(BadRequestError, match=r"sttm_keep: got 7\.5"):
        ask(client, QUESTIONS[0].text, sttm_keep=7.5)
    assert ask(client, QUESTIONS[0].text).usage.prompt_tokens > 0
