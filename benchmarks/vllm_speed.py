"""Throughput and time to the first token in vLLM on this CPU: pruned, merged and whole.

    python -m benchmarks.vllm_speed --model qwen3_vl --log out/qwen3_vl.jsonl \
        --out benchmarks/results/vllm/speed-qwen3_vl.json

Clients ask about a video each, which the engine has not seen, one request after another. A request
is timed from when its client has it, so its first token waits for the videos of the other clients,
too. Every setting has an engine and a process of its own, one at a time; rounds alternate between
the settings, so that what else runs on the machine meets all of them. The processor time is noted
beside the time of the clock. Measurements are kept as they come, in ``--log``; a run that was cut
off goes on. Stock EVS and VidCom2 run on a CPU only with the plugin's patch of vLLM's runner, so
the plugin is installed in all settings, and asked for sttm only where it says so.
"""

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tests.vllm.checkpoints import make
from tests.vllm.engine import ENVIRONMENT, VIDEO, Clip, turn

from sttm.evaluation.environment import environment
from sttm.evaluation.result_log import ResultLog, read_log

RATE = 0.8  # of tokens to remove
NEW_TOKENS = 8
# Large enough that the language model takes most of the time, as it does in models that are used.
TEXT = {
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 6,
    "num_attention_heads": 16,
}


def stock(method: str) -> dict[str, Any]:
    return {"video_pruning_rate": RATE, "video_pruning_method": method}


def plugin(method: str) -> dict[str, Any]:
    return {"video_pruning_rate": RATE, "hf_overrides": {"sttm": {"method": method}}}


WHOLE = "all tokens"
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "nano": {WHOLE: {}, **{name: plugin(name) for name in ("evs", "vidcom2", "sttm")}},
    "qwen2_5_vl": {
        WHOLE: {},
        "vLLM's evs": stock("evs"),
        "evs": plugin("evs"),
        "sttm": plugin("sttm"),
    },
    "qwen3_vl": {
        WHOLE: {},
        "vLLM's evs": stock("evs"),
        "vLLM's vidcom2": stock("vidcom2"),
        "sttm": plugin("sttm"),
    },
}


@dataclass(frozen=True)
class Measured:
    """What one load gave; times in seconds.

    Args:
        setting: what is done with videos.
        clients: how many ask at once.
        round: of the settings, from 0.
        prompt_tokens: length of a prompt.
        wall: from the first request to the last answer.
        cpu: processor time of the engine.
        ttft: of every request, to its first token.
        load: the machine's load average at the end.
    """

    setting: str
    clients: int
    round: int
    prompt_tokens: int
    wall: float
    cpu: float
    ttft: list[float]
    load: float

    @property
    def key(self) -> tuple[str, int, int]:
        return self.setting, self.clients, self.round


class Engine:
    """vLLM in this process."""

    def __init__(self, checkpoint: str, options: dict[str, Any]) -> None:
        from vllm import LLM, SamplingParams

        self._engine = LLM(
            model=checkpoint,
            dtype="float32",
            enforce_eager=True,
            max_model_len=4096,
            max_num_batched_tokens=4096,
            max_num_seqs=32,
            block_size=32,
            limit_mm_per_prompt={"image": 0, "video": 1},
            **options,
        ).llm_engine
        self._params = SamplingParams(max_tokens=NEW_TOKENS, temperature=0, ignore_eos=True)
        self._names = map(str, itertools.count())

    def serve(self, prompts: Sequence[Any], clients: int) -> tuple[list[float], int]:
        """Answer all prompts; returns the seconds to the first tokens, and a prompt's length."""
        waiting, length = list(prompts), 0
        asked: dict[str, float] = {}
        ttft: dict[str, float] = {}
        free = [time.perf_counter()] * clients  # since when
        while waiting or self._engine.has_unfinished_requests():
            while waiting and free:
                name = next(self._names)
                asked[name] = free.pop()
                self._engine.add_request(name, waiting.pop(), self._params)
            for output in self._engine.step():
                now = time.perf_counter()
                ttft.setdefault(output.request_id, now - asked[output.request_id])
                if output.finished:
                    free.append(now)
                    length = len(output.prompt_token_ids)
        return list(ttft.values()), length


def prompts(model: str, frames: int) -> Iterator[Any]:
    """Make questions about videos that are not alike."""
    # vLLM's pruning of Qwen3-VL fails without text in front of the video: docs/vllm-upstream.md.
    system = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    question = system + turn("How many digits?", "<video>\n" if model == "nano" else VIDEO)
    for seed in itertools.count():
        clip = Clip(frames, 1.0, seed, nano=True)
        data = {"video": [(clip.pixels(), clip.metadata())]}
        yield {"prompt": question, "multi_modal_data": data}


def measure(
    model: str, frames: int, loads: dict[int, int], checkpoint: str, setting: str, place: int
) -> Iterator[Measured]:
    """Measure a setting with every number of clients."""
    engine, fresh = Engine(checkpoint, SETTINGS[model][setting]), prompts(model, frames)
    engine.serve(list(itertools.islice(fresh, 2)), 1)  # warm up
    for clients, requests in loads.items():
        some = list(itertools.islice(fresh, requests))
        wall, cpu = time.perf_counter(), time.process_time()
        ttft, length = engine.serve(some, clients)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        times = [round(seconds, 4) for seconds in ttft]
        yield Measured(setting, clients, place, length, wall, cpu, times, os.getloadavg()[0])


def summarize(every: Sequence[Measured]) -> list[dict[str, Any]]:
    """Sum up: medians over rounds, and of the ratios to all tokens in the same round."""
    whole = {(one.clients, one.round): one for one in every if one.setting == WHOLE}
    rows = []
    for (setting, clients), found in itertools.groupby(every, key=lambda one: one.key[:2]):
        rounds = list(found)
        times = torch.tensor([seconds for one in rounds for seconds in one.ttft])
        pairs = [(one, whole[clients, one.round]) for one in rounds]
        rows.append(
            {
                "setting": setting,
                "clients": clients,
                "rounds": len(rounds),
                "requests": len(times),
                "prompt_tokens": rounds[0].prompt_tokens,
                "per_second": statistics.median(len(one.ttft) / one.wall for one in rounds),
                "throughput_ratio": statistics.median(all_.wall / one.wall for one, all_ in pairs),
                "ttft_p50": float(times.quantile(0.5)),
                "ttft_p95": float(times.quantile(0.95)),
                "cpu_per_request": statistics.median(one.cpu / len(one.ttft) for one in rounds),
                "cpu_ratio": statistics.median(one.cpu / all_.cpu for one, all_ in pairs),
                "load": [round(one.load, 1) for one in rounds],
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=sorted(SETTINGS), required=True)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--requests", type=int, nargs="+", default=[4, 16, 64], help="per load")
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs=3, help=argparse.SUPPRESS)  # checkpoint, setting, round
    args = parser.parse_args()
    loads = dict(zip(args.clients, args.requests, strict=True))
    asked = {"model": args.model, "frames": args.frames, "rate": RATE, "requests": args.requests}
    if args.only is not None:
        checkpoint, setting, place = args.only
        facts = {"vllm": version("vllm"), **environment(torch.device("cpu"))}
        with ResultLog(args.log, asked, facts, Measured) as log:
            for one in measure(args.model, args.frames, loads, checkpoint, setting, int(place)):
                log.add([one])
                print(one)
        return
    args.log.parent.mkdir(parents=True, exist_ok=True)
    settings = list(SETTINGS[args.model])
    with tempfile.TemporaryDirectory() as name:
        text = {} if args.model == "nano" else TEXT
        checkpoint = str(make(args.model, Path(name, args.model), **text))
        for place in range(args.rounds):
            first = place % len(settings)
            for setting in settings[first:] + settings[:first]:
                known = read_log(args.log, Measured).answers if args.log.exists() else {}
                if all((setting, clients, place) in known for clients in loads):
                    continue
                command = [sys.executable, "-m", "benchmarks.vllm_speed", *sys.argv[1:]]
                subprocess.run(
                    [*command, "--only", checkpoint, setting, str(place)],
                    env={**os.environ, **ENVIRONMENT},
                    check=True,
                )
    stored = read_log(args.log, Measured)
    every = sorted(
        stored.answers.values(), key=lambda one: (settings.index(one.setting), *one.key[1:])
    )
    asked_for = f"python -m benchmarks.vllm_speed {' '.join(sys.argv[1:])}"
    facts = {"command": asked_for, **stored.settings, **stored.info}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps({**facts, "rows": summarize(every)}, indent=1) + "\n")


if __name__ == "__main__":
    main()
