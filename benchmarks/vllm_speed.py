"""Throughput and time to the first token of ``vllm serve`` on this CPU, pruned, merged and whole.

    .venv-vllm/bin/python -m benchmarks.vllm_speed --model qwen3_vl --log out/qwen3_vl.jsonl \
        --out benchmarks/results/vllm/speed-qwen3_vl.json

Clients send mp4 files, each with a video that the server has not seen, one request after another.
Every setting has a server of its own, one at a time; rounds alternate between the settings, so
that what else runs on the machine meets all of them. The processor time of the server's processes
is noted beside the times of the clock. Measurements are kept as they come, in ``--log``; a run that
was cut off goes on. Stock EVS runs on a CPU only with the plugin's patch of vLLM's runner, so the
plugin is installed in all settings, and asked for sttm only where it says so.
"""

import argparse
import asyncio
import base64
import contextlib
import io
import itertools
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
from openai import APIConnectionError, AsyncOpenAI, OpenAI
from tests.vllm.checkpoints import make
from tests.vllm.engine import ENVIRONMENT

from sttm import nano
from sttm.evaluation.environment import environment
from sttm.evaluation.result_log import ResultLog

RATE = 0.8  # of tokens to remove
NEW_TOKENS = 8
# Large enough that the language model takes most of the time, as it does in models that are used.
TEXT = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 16,
}


@dataclass(frozen=True)
class Setting:
    """A way to serve.

    Args:
        name: in tables.
        flags: of ``vllm serve``.
    """

    name: str
    flags: tuple[str, ...] = ()


def stock(method: str) -> Setting:
    flags = ("--video-pruning-rate", str(RATE), "--video-pruning-method", method)
    return Setting(f"vLLM's {method}", flags)


def plugin(method: str) -> Setting:
    overrides = json.dumps({"sttm": {"method": method}})
    return Setting(method, ("--video-pruning-rate", str(RATE), "--hf-overrides", overrides))


WHOLE = Setting("all tokens")
SETTINGS = {
    "nano": (WHOLE, plugin("evs"), plugin("vidcom2"), plugin("sttm")),
    "qwen2_5_vl": (WHOLE, stock("evs"), plugin("evs"), plugin("sttm")),
    "qwen3_vl": (WHOLE, stock("evs"), stock("vidcom2"), plugin("sttm")),
}


@dataclass(frozen=True)
class Measured:
    """What one load gave; times in seconds.

    Args:
        setting: how the server runs.
        clients: how many ask at once.
        round: of the settings, from 0.
        requests: how many were answered.
        prompt_tokens: mean length of a prompt.
        wall: from the first request to the last answer.
        cpu: processor time of the server.
        ttft: of every request, to the first token.
        load: the machine's load average at the end.
    """

    setting: str
    clients: int
    round: int
    requests: int
    prompt_tokens: float
    wall: float
    cpu: float
    ttft: list[float]
    load: float

    @property
    def key(self) -> tuple[str, int, int]:
        return self.setting, self.clients, self.round


@contextlib.contextmanager
def serve(checkpoint: str, setting: Setting, log: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Run a server; yields its address and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [str(Path(sys.executable).with_name("vllm")), "serve", checkpoint, "--port", port]
    command += ["--host", "127.0.0.1", "--served-model-name", "it", "--enforce-eager"]
    command += ["--dtype", "float32", "--max-model-len", "4096", "--max-num-seqs", "32"]
    command += ["--block-size", "32", *setting.flags]
    env = {**os.environ, **ENVIRONMENT, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    with log.open("w") as out, psutil.Popen(command, env=env, stdout=out, stderr=out) as server:
        url = f"http://127.0.0.1:{port}/v1"
        try:
            while True:
                if server.poll() is not None:
                    raise SystemExit(log.read_text()[-6000:])
                with contextlib.suppress(APIConnectionError):
                    OpenAI(base_url=url, api_key="none", max_retries=0).models.list()
                    break
                time.sleep(1)
            yield url, server
        finally:
            server.terminate()
            server.wait(60)


def cpu_seconds(server: psutil.Process) -> float:
    """Return the processor time of a server and of all that it started and that still runs."""
    times = [one.cpu_times() for one in (server, *server.children(recursive=True))]
    return float(sum(each.user + each.system for each in times))


def mp4(seed: int, frames: int) -> str:
    """Make a video, as the URL of a request."""
    file = io.BytesIO()
    nano.write_clip(nano.make_clip(seed, frames), file)
    return "data:video/mp4;base64," + base64.b64encode(file.getvalue()).decode()


async def ask(client: AsyncOpenAI, url: str) -> tuple[float, int]:
    """Ask about a video; returns the seconds to the first token, and the prompt's length."""
    content: list[Any] = [
        {"type": "video_url", "video_url": {"url": url}},
        {"type": "text", "text": "How many digits?"},
    ]
    start, first, usage = time.perf_counter(), 0.0, None
    stream = await client.chat.completions.create(
        model="it",
        messages=[{"role": "user", "content": content}],
        max_tokens=NEW_TOKENS,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    async for chunk in stream:
        first = first or time.perf_counter() - start
        usage = chunk.usage or usage
    assert usage is not None
    assert usage.completion_tokens == NEW_TOKENS
    return first, usage.prompt_tokens


async def load(address: str, urls: Sequence[str], clients: int) -> list[tuple[float, int]]:
    """Let clients ask about all videos, each one after another."""
    waiting, done = list(urls), []

    async def client(openai: AsyncOpenAI) -> None:
        while waiting:
            done.append(await ask(openai, waiting.pop()))

    async with AsyncOpenAI(base_url=address, api_key="none", max_retries=0, timeout=900) as openai:
        await asyncio.gather(*(client(openai) for _ in range(clients)))
    return done


def measure(
    address: str, server: psutil.Process, urls: Sequence[str], key: tuple[str, int, int]
) -> Measured:
    """Measure one load."""
    before, start = cpu_seconds(server), time.perf_counter()
    done = asyncio.run(load(address, urls, key[1]))
    wall, cpu = time.perf_counter() - start, cpu_seconds(server) - before
    ttft = [round(seconds, 4) for seconds, _ in done]
    tokens = statistics.fmean(tokens for _, tokens in done)
    return Measured(*key, len(done), tokens, wall, cpu, ttft, os.getloadavg()[0])


def summarize(every: Sequence[Measured]) -> list[dict[str, Any]]:
    """Sum up: medians over rounds, and of the ratios to all tokens in the same round."""
    whole = {(one.clients, one.round): one for one in every if one.setting == WHOLE.name}
    rows = []
    for (setting, clients), found in itertools.groupby(every, key=lambda one: one.key[:2]):
        rounds = list(found)
        times = torch.tensor([seconds for one in rounds for seconds in one.ttft])
        beside = [whole[clients, one.round] for one in rounds]
        pairs = list(zip(rounds, beside, strict=True))
        rows.append(
            {
                "setting": setting,
                "clients": clients,
                "rounds": len(rounds),
                "requests": sum(one.requests for one in rounds),
                "prompt_tokens": rounds[0].prompt_tokens,
                "per_second": statistics.median(one.requests / one.wall for one in rounds),
                "ttft_p50": float(times.quantile(0.5)),
                "ttft_p95": float(times.quantile(0.95)),
                "cpu_per_request": statistics.median(one.cpu / one.requests for one in rounds),
                "throughput_ratio": statistics.median(b.wall / a.wall for a, b in pairs),
                "cpu_ratio": statistics.median(a.cpu / b.cpu for a, b in pairs),
                "load": [round(one.load, 1) for one in rounds],
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(SETTINGS), required=True)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--requests", type=int, nargs="+", default=[4, 16, 32], help="per load")
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    loads = dict(zip(args.clients, args.requests, strict=True))
    asked = {"model": args.model, "frames": args.frames, "rate": RATE, "requests": args.requests}
    facts = {**asked, "vllm": version("vllm"), **environment(torch.device("cpu"))}
    args.log.parent.mkdir(parents=True, exist_ok=True)
    settings = SETTINGS[args.model]
    with ResultLog(args.log, asked, facts, Measured) as log, tempfile.TemporaryDirectory() as name:
        more = {} if args.model == "nano" else TEXT
        checkpoint = str(make(args.model, Path(name, args.model), **more))
        urls = [mp4(seed, args.frames) for seed in range(sum(args.requests) + 2)]
        for turn in range(args.rounds):
            for setting in settings[turn % len(settings) :] + settings[: turn % len(settings)]:
                keys = [(setting.name, clients, turn) for clients in loads]
                if all(key in log.known for key in keys):
                    continue
                with serve(checkpoint, setting, Path(name, "log")) as (address, server):
                    fresh = iter(urls)
                    asyncio.run(load(address, list(itertools.islice(fresh, 2)), 1))  # warm up
                    for key in keys:
                        some = list(itertools.islice(fresh, loads[key[1]]))
                        log.add([measure(address, server, some, key)])
                        print(log.known[key])
        order = [setting.name for setting in settings]
        every = sorted(log.known.values(), key=lambda one: (order.index(one.setting), *one.key[1:]))
        facts = {**log.info, "command": " ".join(sys.argv[1:])}
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps({**facts, "rows": summarize(every)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
