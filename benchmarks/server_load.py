"""Put a server under load: many clients, several questions about each video, every answer checked.

    python benchmarks/server_load.py --out benchmarks/results/server_load.json

Runs ``sttm serve`` with nano in a process of its own, on loopback, once for each setting: with the
store, once more on what it has kept, without it (every question watches its video again, unless
that is being watched at the moment), and with all tokens. Every answer is compared with what a chat
without a server says about the same video. The clips differ in their digits and colours:
``told_apart`` is the share of pairs of videos that answer the same question differently.
"""

import argparse
import asyncio
import base64
import contextlib
import itertools
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpcore
import torch

import sttm
from sttm import nano
from sttm.evaluation.environment import environment
from sttm.video import read_video

KEEP = 0.3
FRAMES = 32


@dataclass(frozen=True)
class Question:
    """A question about a video, and the answer of a chat without a server."""

    video: int
    text: str
    answer: str


@dataclass(frozen=True)
class Asked:
    """What came of one question; seconds."""

    question: Question
    text: str
    cached: bool
    ttft: float
    seconds: float
    status: int


@dataclass(frozen=True)
class Setting:
    """One way to serve."""

    name: str
    keep: float
    stored: bool


@dataclass(frozen=True)
class Row:
    """What one setting gave.

    ``lost`` have no answer, ``mixed_up`` another one than the chat's. ``watched`` is how often a
    video was watched; questions that came meanwhile waited for it, and the others, ``hit_rate`` of
    all, found it in the store. Times from the request to the first token are in milliseconds.
    """

    setting: str
    questions: int
    lost: int
    mixed_up: int
    told_apart: float
    seconds: float
    per_second: float
    ttft_p50: float
    ttft_p95: float
    watched: int
    hit_rate: float
    rows_per_step: float


SETTINGS = (
    Setting("store", KEEP, True),
    Setting("store, after a restart", KEEP, True),  # in the folder of the one before
    Setting("no store", KEEP, False),
    Setting("store, all tokens", 1.0, True),
    Setting("no store, all tokens", 1.0, False),
)


def make_clips(folder: Path, count: int) -> list[tuple[nano.Clip, Path]]:
    """Write clips that differ in what is to be seen."""
    made = []
    for seed in range(count):
        clip = nano.make_clip(1000 + seed, FRAMES)
        path = folder / f"{seed}.mp4"
        nano.write_clip(clip, path)
        made.append((clip, path))
    return made


def expected(clips: Sequence[tuple[nano.Clip, Path]], keep: float, each: int) -> list[Question]:
    """Ask a chat without a server."""
    model, processor = nano.load()
    method = None if keep == 1 else sttm.STTM(keep=keep)
    layer = None if method is None else nano.NANO_LAYER
    found = []
    with sttm.VideoChat(
        model, processor, method, layer=layer, positions=nano.NANO_POSITIONS
    ) as chat:
        for place, (clip, path) in enumerate(clips):
            video = chat.watch(read_video(path, max_frames=FRAMES))
            texts = [question.text for question in nano.make_questions(clip, 0)]
            texts = list(dict.fromkeys([*texts, "Which digit came first?", "How many digits?"]))
            for text in texts[:each]:
                found.append(Question(place, text, video.ask(text, max_new_tokens=8).text))
    return found


@contextlib.contextmanager
def server(setting: Setting, folder: Path) -> Iterator[str]:
    """Run ``sttm serve``; yields its URL."""
    command = [sys.executable, "-m", "sttm", "serve", "--port", "0", "--json"]
    command += ["--max-frames", str(FRAMES), "--keep", str(setting.keep)]
    command += ["--open-answers", "1000", "--open-videos", "1000"]
    if setting.stored:
        command += ["--store", str(folder / f"store-{setting.keep}")]
    else:
        command += ["--memory-mib", "0", "--device-mib", "0"]
    env = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=env, text=True) as process:
        assert process.stdout is not None
        text = ""
        while not text.rstrip().endswith("}"):
            line = process.stdout.readline()
            if not line:
                raise SystemExit(f"the server ended with {process.wait()}")
            text += line
        try:
            yield json.loads(text)["url"]
        finally:
            process.terminate()
            process.wait(60)


async def ask(pool: httpcore.AsyncConnectionPool, url: str, data: str, asked: Question) -> Asked:
    """Ask one question, and read the streamed answer."""
    content = [
        {"type": "video_url", "video_url": {"url": data}},
        {"type": "text", "text": asked.text},
    ]
    body = {
        "model": "nano",
        "stream": True,
        "max_tokens": 8,
        "messages": [{"role": "user", "content": content}],
    }
    start, first, texts, details = time.perf_counter(), 0.0, [], {"cached": False}
    async with pool.stream(
        "POST",
        f"{url}/v1/chat/completions",
        headers=[("content-type", "application/json")],
        content=json.dumps(body).encode(),
    ) as response:
        async for event in events(response):
            for choice in event.get("choices", ()):
                texts.append(choice["delta"].get("content") or "")
                if texts[-1] and not first:
                    first = time.perf_counter() - start
            details = event.get("sttm", details)
        status = response.status
    seconds = time.perf_counter() - start
    return Asked(asked, "".join(texts), details["cached"], first or seconds, seconds, status)


async def events(response: httpcore.Response) -> AsyncIterator[dict[str, Any]]:
    """Yield the server-sent events of a response."""
    rest = b""
    async for part in response.aiter_stream():
        *whole, rest = (rest + part).split(b"\n\n")
        for line in whole:
            if line.startswith(b"data: {"):
                yield json.loads(line.removeprefix(b"data: "))


async def load(
    url: str, data: Sequence[str], questions: Sequence[Question], clients: int
) -> list[Asked]:
    """Let clients ask all questions in a mixed order, each one after the other."""
    waiting = list(questions)
    random.Random(0).shuffle(waiting)
    done: list[Asked] = []

    async def client(pool: httpcore.AsyncConnectionPool) -> None:
        while waiting:
            question = waiting.pop()
            done.append(await ask(pool, url, data[question.video], question))

    async with httpcore.AsyncConnectionPool(max_connections=clients) as pool:
        await asyncio.gather(*(client(pool) for _ in range(clients)))
    return done


def told_apart(questions: Sequence[Question]) -> float:
    """Return the share of pairs of videos whose answers to the same question differ."""
    pairs = [
        one.answer != other.answer
        for one, other in itertools.combinations(questions, 2)
        if one.text == other.text
    ]
    return sum(pairs) / len(pairs)


def metric(url: str, name: str) -> float:
    """Read one of the server's metrics."""
    text = httpcore.request("GET", f"{url}/metrics").content.decode()
    found = re.search(rf"^sttm_{name} (\S+)$", text, re.MULTILINE)
    assert found is not None, name
    return float(found[1])


def run(setting: Setting, clips: Sequence[tuple[nano.Clip, Path]], args: Any, folder: Path) -> Row:
    """Measure one setting."""
    questions = expected(clips, setting.keep, args.questions)
    data = [
        "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode() for _, path in clips
    ]
    with server(setting, folder) as url:
        start = time.perf_counter()
        done = asyncio.run(load(url, data, questions, args.clients))
        seconds = time.perf_counter() - start
        watched = int(metric(url, r'videos_total\{found="watched"\}'))
        rows = metric(url, "decode_rows") / max(1, metric(url, "decode_steps"))
    ttft = torch.tensor([each.ttft for each in done]) * 1e3
    wrong = [each for each in done if each.status == 200 and each.text != each.question.answer]
    for each in wrong:
        print(f"  got {each.text!r}, expected {each.question}")
    return Row(
        setting.name,
        len(questions),
        lost=len(questions) - sum(each.status == 200 for each in done),
        mixed_up=len(wrong),
        told_apart=told_apart(questions),
        seconds=seconds,
        per_second=len(done) / seconds,
        ttft_p50=float(ttft.quantile(0.5)),
        ttft_p95=float(ttft.quantile(0.95)),
        watched=watched,
        hit_rate=sum(each.cached for each in done) / len(done),
        rows_per_step=rows,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--videos", type=int, default=16)
    parser.add_argument("--questions", type=int, default=6, help="about each video")
    parser.add_argument("--settings", type=int, nargs="+", default=list(range(len(SETTINGS))))
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        clips = make_clips(Path(name), args.videos)
        rows = []
        for place in args.settings:
            rows.append(run(SETTINGS[place], clips, args, Path(name)))
            print(rows[-1])
    if args.out is not None:
        facts = {"clients": args.clients, "videos": args.videos, **environment(torch.device("cpu"))}
        args.out.write_text(json.dumps({**facts, "rows": [asdict(r) for r in rows]}, indent=1))


if __name__ == "__main__":
    main()
