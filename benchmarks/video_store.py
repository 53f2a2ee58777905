"""What a stored video takes, and what it costs to load instead of watching again.

1. nano: bytes per video, and seconds to watch, to load from the disk and to find in memory, at all
   tokens, 30 % and 10 %; medians.
2. What rounding on the disk does to nano's answers, against the same videos as they are.
3. Files as large as those of a 7B model (random numbers in the shapes of Qwen2.5-7B's cache,
   merged in front of layer 2): bytes, and seconds to write to the disk and to read and check.

Files come from the page cache where the machine has room for them.

python benchmarks/video_store.py --out benchmarks/results/video_store.json
"""

import argparse
import json
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache

import sttm
from sttm import nano
from sttm.chat import VideoStore
from sttm.chat.saved_video import read_file, save_state
from sttm.evaluation.environment import environment

KEEPS = (1.0, 0.3, 0.1)
SEED = 60_000_000  # neither training nor its reports use scenes from here on
LAYERS, HEADS, WIDTH, MERGED_AT = 28, 4, 128, 2  # of Qwen2.5-7B
FRAMES, PER_FRAME, TEXT = 128, 196, 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--clips", type=int, default=5, help="for times")
    parser.add_argument("--scenes", type=int, default=60, help="for answers")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    model, processor = nano.load()
    chats = {keep: chat_of(model, processor, keep) for keep in KEEPS}
    for chat in chats.values():
        chat.watch(nano.make_scene(SEED, 8).frames)  # to warm up
    result: dict[str, Any] = {
        "command": shlex.join(["python", *sys.argv]),
        "environment": environment(torch.device("cpu")),
    }
    parts: dict[str, Callable[[float], dict[str, Any]]] = {
        "nano": lambda keep: times(chats[keep], keep, options),
        "shapes_of_7b": lambda keep: large_file(chats[1.0], keep),
        "rounding": lambda keep: rounding(chats[keep], keep, options),
    }
    for name, part in parts.items():
        for keep in KEEPS:
            row = part(keep)
            print(name, row, flush=True)
            result.setdefault(name, []).append(row)
            if options.out is not None:
                options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def chat_of(model: Any, processor: Any, keep: float) -> sttm.VideoChat:
    method = None if keep == 1.0 else sttm.STTM(keep=keep)
    layer = None if method is None else nano.NANO_LAYER
    return sttm.VideoChat(model, processor, method, layer=layer, positions=nano.NANO_POSITIONS)


def timed(name: str, call: Callable[[], object]) -> dict[str, float]:
    """Measure wall-clock time, and the processor's, which other work disturbs less."""
    start = time.perf_counter(), time.process_time()
    call()
    return {
        f"{name}_s": time.perf_counter() - start[0],
        f"{name}_cpu_s": time.process_time() - start[1],
    }


def medians(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(row[name] for row in rows), 4) for name in rows[0]}


def times(chat: sttm.VideoChat, keep: float, options: argparse.Namespace) -> dict[str, Any]:
    """Watch clips in files, then load them in a store that has just been opened."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seed in range(SEED, SEED + options.clips):
            path = folder / f"{seed}.mp4"
            nano.write_clip(nano.make_scene(seed, options.frames), path)
            store = VideoStore(folder / "store")
            watch = partial(store.watch, chat, path, max_frames=options.frames)
            row = timed("watch", partial(chat.watch, path, max_frames=options.frames))
            row |= timed("watch_and_store", watch) | timed("find_in_memory", watch)
            again = VideoStore(folder / "store")
            watch = partial(again.watch, chat, path, max_frames=options.frames)
            row |= timed("load_from_disk", watch)
            assert (store.hits, store.misses, again.hits) == (1, 1, 1)
            file = folder / "store" / f"{again.entries()[0].key}.sttm"
            rows.append({"bytes": file.stat().st_size, **row})
    return {"keep": keep, "frames": options.frames, "clips": options.clips, **medians(rows)}


def rounding(chat: sttm.VideoChat, keep: float, options: argparse.Namespace) -> dict[str, Any]:
    """Ask about scenes from a store of each dtype."""
    row: dict[str, Any] = {"keep": keep, "scenes": options.scenes, "questions": 0}
    with tempfile.TemporaryDirectory() as folder:
        stores = {
            dtype or "as it is": VideoStore(Path(folder) / str(dtype), kv_dtype=dtype)
            for dtype in (None, "bfloat16", "float8")
        }
        tally = {name: {"right": 0, "changed": 0, "bytes": 0} for name in stores}
        for seed in range(SEED, SEED + options.scenes):
            clip = nano.make_scene(seed, options.frames // 2)
            videos = {n: store.watch(chat, clip.frames) for n, store in stores.items()}
            for question in nano.scene_questions(clip, seed):
                answers = {n: v.ask(question.text, max_new_tokens=8) for n, v in videos.items()}
                row["questions"] += 1
                for name, answer in answers.items():
                    tally[name]["right"] += answer.text == question.answer
                    tally[name]["changed"] += answer.text != answers["as it is"].text
        for name in stores:
            files = [*(Path(folder) / ("None" if name == "as it is" else name)).glob("*.sttm")]
            tally[name]["bytes"] = sum(file.stat().st_size for file in files) // len(files)
    return row | tally


def large_file(chat: sttm.VideoChat, keep: float) -> dict[str, Any]:
    """Write and read a file of a 7B model's size."""
    tokens = FRAMES * PER_FRAME
    lengths = [TEXT + int(tokens * (keep if i >= MERGED_AT else 1.0)) for i in range(LAYERS)]
    cache = DynamicCache()
    for index, length in enumerate(lengths):
        shape = (1, HEADS, length, WIDTH)
        cache.update(torch.randn(shape).bfloat16(), torch.randn(shape).bfloat16(), index)
    video = replace(chat.watch(nano.make_scene(SEED, 8).frames).state(), cache=cache)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.sttm"
        rows = [
            timed("write", partial(save_state, video, chat.adapter, path))
            | timed("read_and_check", partial(read_file, path))
            for _ in range(3)
        ]
        size = path.stat().st_size
    return {"keep": keep, "video_tokens": tokens, "bytes": size, **medians(rows)}


if __name__ == "__main__":
    main()
