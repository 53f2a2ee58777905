"""A small window against the whole video: tokens and answers of nano on the needle scenes.

python benchmarks/streaming.py --scenes 60 --out benchmarks/results/streaming.json
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import sttm
from sttm.chat import PrefilledVideo
from sttm.nano import NANO_LAYER, NANO_POSITIONS, load, make_scene, scene_questions

WINDOWS = (1, 2, 4, 8, 16, 32, None)
THRESHOLDS = ((0.99, 0.94), (0.95, 0.9))
FIRST_SEED = 71_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, processor = load()
    counts: dict[str, Counter[str]] = {}
    for number in range(options.scenes):
        scene = make_scene(FIRST_SEED + number, options.frames)
        questions = scene_questions(scene, number)
        for name, watch in settings(model, processor).items():
            start = time.process_time()
            video = watch(scene.frames)
            seconds = time.process_time() - start
            right = [video.ask(q.text, max_new_tokens=4).text == q.answer for q in questions]
            found = counts.setdefault(name, Counter())
            found += Counter(tokens_in=video.tokens_in, tokens_out=video.tokens_out)
            found += Counter(questions=len(questions), right=sum(right))
            found["cpu_ms"] += round(1e3 * seconds)
            counts[name] = found
        write(options.out, options.frames, number + 1, counts)
    for name, found in counts.items():
        kept = found["tokens_out"] / found["tokens_in"]
        print(
            f"{name:28} {kept:6.1%} of the tokens, {found['right'] / found['questions']:.1%} right"
        )


def settings(model: object, processor: object) -> dict[str, Callable[..., PrefilledVideo]]:
    """Name every way to watch."""
    ways: dict[str, Callable[..., PrefilledVideo]] = {}

    def open_chat(method: sttm.Method | None) -> sttm.VideoChat:
        layer = None if method is None else NANO_LAYER
        return sttm.VideoChat(model, processor, method, layer=layer, positions=NANO_POSITIONS)

    ways["all tokens"] = open_chat(None).watch
    for spatial, temporal in THRESHOLDS:
        chat = open_chat(sttm.STTM(spatial_threshold=spatial, temporal_threshold=temporal))
        ways[f"{spatial}/{temporal} offline"] = chat.watch
        for window in WINDOWS:

            def stream(
                frames: np.ndarray[Any, Any],
                chat: sttm.VideoChat = chat,
                window: int | None = window,
            ) -> PrefilledVideo:
                stream = chat.stream(window=window)
                for start in range(0, len(frames), 4):
                    stream.push(frames[start : start + 4])
                return stream.watched()

            ways[f"{spatial}/{temporal} window {window or 'none'}"] = stream
    return ways


def write(out: Path, frames: int, scenes: int, counts: dict[str, Counter[str]]) -> None:
    """Write what there is, so that a run may be cut off."""
    out.write_text(json.dumps({"frames": frames, "scenes": scenes, "counts": counts}, indent=1))


if __name__ == "__main__":
    main()
