"""Kill a process that stores videos, at random moments, and look at what is left.

python -m tests.chat.killed --moments 50
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import torch

import sttm
from sttm.chat import VideoStore
from sttm.errors import StoreWarning

from .tiny import bundle, clip

LONGEST = 0.6  # seconds before a kill
ENTRIES = 400_000  # of a layer, so that writing takes most of the time


def swell(video: sttm.chat.PrefilledVideo, seed: int) -> sttm.chat.PrefilledVideo:
    """Give a video keys of some megabytes that tell which one it is."""
    layer = video.cache.layers[-1]
    layer.keys = torch.full((1, 1, ENTRIES, 4), float(seed))
    return video


class Watching(sttm.VideoChat):
    """A chat whose videos are large."""

    def watch(self, video, **options):  # type: ignore[no-untyped-def]
        return swell(super().watch(video, **options), round(video.timestamps[-1]) - 1)


def work(folder: Path, first: int, told: int) -> None:
    """Store one video after the other, and tell each when the store has acknowledged it."""
    tiny = bundle("llava_onevision")
    chat, store = Watching(tiny.model, tiny.processor), VideoStore(folder, memory_bytes=0)
    for seed in range(first, first + 1000):
        store.watch(chat, clip(2, seed=seed), fps=1 / (seed + 1))
        os.write(told, f"{seed}\n".encode())


def kill_after(seconds: float, folder: Path, first: int) -> list[int]:
    """Fork a process that stores videos, kill it, and return the seeds that it told."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(reading)
            work(folder, first, writing)
        finally:
            os._exit(1)
    os.close(writing)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "the process ended by itself"
    with os.fdopen(reading) as told:
        return [int(line) for line in told]


def check(folder: Path, acknowledged: list[int]) -> str:
    """Open the store again: everything acknowledged is there and right, nothing half is left."""
    unfinished = len([*folder.glob(".*.sttm.*")])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", StoreWarning)
        store = VideoStore(folder, memory_bytes=0)
    assert len(caught) == (unfinished > 0), [str(warning.message) for warning in caught]
    assert store.verify() == []
    assert not [*folder.glob(".*.sttm.*")]
    tiny = bundle("llava_onevision")
    chat = sttm.VideoChat(tiny.model, tiny.processor)
    for seed in acknowledged:
        found = store.find(chat, store.key(chat, clip(2, seed=seed), fps=1 / (seed + 1)))
        assert found is not None, f"video {seed} is lost"
        assert bool((found.cache.layers[-1].keys == seed).all()), f"video {seed} is another"
    more = len(store.entries()) - len(acknowledged)
    assert more in (0, 1), f"{more} videos that nobody acknowledged"
    return "half-written" if unfinished else ("written, not told" if more else "between writes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)  # a fork has no other threads
    chance = random.Random(options.seed)
    outcomes: Counter[str] = Counter()
    total = 0
    for moment in range(options.moments):
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            told = kill_after(chance.uniform(0.05, LONGEST), place, 1 + 1000 * moment)
            outcomes[check(place, told)] += 1
            total += len(told)
    sys.stdout.write(f"{options.moments} kills, {total} acknowledged videos, 0 lost; ")
    sys.stdout.write(", ".join(f"{name} {count}" for name, count in outcomes.items()) + "\n")


if __name__ == "__main__":
    main()
