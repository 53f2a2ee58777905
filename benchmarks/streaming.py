"""A small window, or a cap, against the whole video: answers of nano on the needle scenes.

With --budgets: exact budgets in two steps against one, and what either loses of the features.

python benchmarks/streaming.py --scenes 60 --out benchmarks/results/streaming.json
python benchmarks/streaming.py --scenes 40 --caps 800 600 400 --out caps.json
python benchmarks/streaming.py --budgets --scenes 40 --out benchmarks/results/piecewise.json
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import sttm
from sttm.chat import PrefilledVideo
from sttm.nano import NANO_LAYER, NANO_POSITIONS, load, make_scene, scene_questions

WINDOWS = (1, 2, 4, 8, 16, 32, None)
BUDGETS = (0.1, 0.05, 0.02)
PIECES = (None, 16, 4)
THRESHOLDS = ((0.99, 0.94), (0.95, 0.9))
CAPPED_WINDOW = 4
FIRST_SEED = 71_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--caps", type=int, nargs="+", help="most tokens, with a window of 4")
    parser.add_argument("--budgets", action="store_true")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, processor = load()
    counts: dict[str, Counter[str]] = {}
    for number in range(options.scenes):
        scene = make_scene(FIRST_SEED + number, options.frames)
        questions = scene_questions(scene, number)
        ways = settings(model, processor, options.caps)
        if options.budgets:
            ways = budgets(model, processor)
        for name, watch in ways.items():
            start = time.process_time()
            video = watch(scene.frames)
            seconds = time.process_time() - start
            right = [video.ask(q.text, max_new_tokens=4).text == q.answer for q in questions]
            found = counts.setdefault(name, Counter())
            found += Counter(tokens_in=video.tokens_in, tokens_out=video.tokens_out)
            found += Counter(questions=len(questions), right=sum(right))
            found["cpu_ms"] += round(1e3 * seconds)
            if options.budgets:
                found["lost_ppm"] += round(1e6 * lost(video, scene.frames))
            counts[name] = found
        write(options.out, options.frames, number + 1, counts)
    for name, found in counts.items():
        kept = found["tokens_out"] / found["tokens_in"]
        error = (
            f", {found['lost_ppm'] / 1e4 / options.scenes:.3f} % lost" if options.budgets else ""
        )
        print(
            f"{name:28} {kept:6.1%} of the tokens, {found['right'] / found['questions']:.1%} right"
            + error
        )


def settings(
    model: object, processor: object, caps: list[int] | None
) -> dict[str, Callable[..., PrefilledVideo]]:
    """Name every way to watch: with caps, or with windows."""
    ways: dict[str, Callable[..., PrefilledVideo]] = {}

    def open_chat(method: sttm.Method | None) -> sttm.VideoChat:
        layer = None if method is None else NANO_LAYER
        return sttm.VideoChat(model, processor, method, layer=layer, positions=NANO_POSITIONS)

    def streamed(method: sttm.Method, window: int | None) -> Callable[..., PrefilledVideo]:
        chat = open_chat(method)

        def watch(frames: np.ndarray[Any, Any]) -> PrefilledVideo:
            stream = chat.stream(window=window)
            for start in range(0, len(frames), 4):
                stream.push(frames[start : start + 4])
            return stream.watched()

        return watch

    ways["all tokens"] = open_chat(None).watch
    for spatial, temporal in THRESHOLDS[: 1 if caps else None]:
        method = sttm.STTM(spatial_threshold=spatial, temporal_threshold=temporal)
        for cap in caps or ():
            capped = replace(method, max_tokens=cap)
            ways[f"{spatial}/{temporal} cap {cap}"] = streamed(capped, CAPPED_WINDOW)
        if not caps:
            ways[f"{spatial}/{temporal} offline"] = open_chat(method).watch
        for window in (CAPPED_WINDOW,) if caps else WINDOWS:
            ways[f"{spatial}/{temporal} window {window or 'none'}"] = streamed(method, window)
    return ways


def budgets(model: object, processor: object) -> dict[str, Callable[..., PrefilledVideo]]:
    """Name every exact budget, in one step and in two."""
    methods = {
        f"keep {keep} {'in one step' if piece is None else f'pieces of {piece}'}": sttm.STTM(
            keep=keep, piece=piece
        )
        for keep in BUDGETS
        for piece in PIECES
    }
    options: Any = {"layer": NANO_LAYER, "positions": NANO_POSITIONS}
    chats = {n: sttm.VideoChat(model, processor, m, **options) for n, m in methods.items()}
    return {name: chat.watch for name, chat in chats.items()}


def lost(video: PrefilledVideo, frames: np.ndarray[Any, Any]) -> float:
    """Return which share of the energy of the features merging has lost."""
    x = video.chat.encode(frames).features.pooler_output[0].flatten(0, -2)
    plan = video.reports[0].plan
    x = x[: plan.num_in]  # without newlines
    error = x - plan.apply(x)[plan.group]
    return float(error.square().sum() / x.square().sum())


def write(out: Path, frames: int, scenes: int, counts: dict[str, Counter[str]]) -> None:
    """Write what there is, so that a run may be cut off."""
    out.write_text(json.dumps({"frames": frames, "scenes": scenes, "counts": counts}, indent=1))


if __name__ == "__main__":
    main()
