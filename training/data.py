"""Training clips from seeds: every batch is a pure function of (seed, stage, step)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from sttm.nano.clips import Clip, make_clip
from sttm.nano.scenes import make_scene
from training.codec import through_codec

HELD_OUT = 10_000_000  # evaluation uses clip seeds from here on; training stays below
CODEC_SHARE = 0.35  # of the training clips, sent through H.264 with crf 18 to 28


def batch_generator(seed: int, stage: str, step: int, rank: int = 0) -> np.random.Generator:
    """The random numbers of one training batch of one process."""
    return np.random.default_rng([seed, zlib.crc32(stage.encode()), step, *([rank] * (rank > 0))])


def train_clip(rng: np.random.Generator, frames: int, num_needles: int | None = None) -> Clip:
    """One training clip; a share of them has been through the video codec."""
    return _perhaps_coded(
        make_clip(int(rng.integers(HELD_OUT)), frames, num_needles=num_needles), rng
    )


def train_scene(rng: np.random.Generator, frames: int) -> Clip:
    """One training scene; a share of them has been through the video codec."""
    return _perhaps_coded(make_scene(int(rng.integers(HELD_OUT)), frames), rng)


def _perhaps_coded(clip: Clip, rng: np.random.Generator) -> Clip:
    if rng.random() < CODEC_SHARE:
        return through_codec(clip, int(rng.integers(18, 29)), "ultrafast")
    return clip


class Batches(Dataset[object]):
    """Batches of one stage by index; subclasses build one in ``__getitem__``."""

    def __init__(self, seed: int, stage: str, first: int, steps: int, rank: int = 0) -> None:
        self.seed, self.stage, self.first, self.steps = seed, stage, first, steps
        self.rank = rank

    def __len__(self) -> int:
        return self.steps - self.first

    def generator(self, index: int) -> np.random.Generator:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return batch_generator(self.seed, self.stage, self.first + index, self.rank)


def prefetch(batches: Batches, workers: int = 1) -> Iterator[object]:
    """Batches in order, made by background processes."""
    return iter(
        DataLoader(
            batches,
            batch_size=None,
            num_workers=workers,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_one_thread,
        )
    )


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)
