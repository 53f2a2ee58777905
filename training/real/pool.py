"""Shots whose frames are encoded once, bare and with needles, for any number of clips.

The tower looks at one frame at a time. So the features of a clip are those of its frames, and clips
that cut and join frames of a pool are exactly what composing and encoding would give.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.loop import save_atomically
from training.real.clips import (
    FRAMES,
    Clip,
    Needle,
    Shot,
    compose,
    random_runs,
    random_shot,
    render_frame,
)
from training.real.sources import Material, Pixels
from training.real.tower import LiteTower

RUNS = 10  # needles, or pairs of them, to choose from in each shot
BATCH = 14


@dataclass(frozen=True)
class Stock:
    """A shot, its choice of needles, and where their features are.

    Args:
        shot: the shot.
        runs: see `random_runs`.
        bare: row of the first frame without a needle; the others follow.
        rows: for each needle the row of its first frame.
    """

    shot: Shot
    runs: list[list[Needle]]
    bare: int
    rows: dict[Needle, int]

    def row(self, frame: int, needle: Needle | None) -> int:
        """Find the features of a frame."""
        return self.bare + frame if needle is None else self.rows[needle] + frame - needle.start


def plan_pool(material: Material, count: int, seed: int) -> tuple[list[Stock], int]:
    """Choose ``count`` shots and their needles; the same seed chooses the same.

    Returns:
        the shots, and the number of frames to encode.
    """
    rng = np.random.default_rng([seed, material.held_out])
    stocks, row = [], 0
    for _ in range(count):
        shot, runs = random_shot(rng, material), random_runs(rng, material, RUNS)
        bare, rows = row, {}
        row += FRAMES
        for needle in (needle for run in runs for needle in run):
            rows[needle] = row
            row += needle.end - needle.start
        stocks.append(Stock(shot, runs, bare, rows))
    return stocks, row


@torch.inference_mode()
def encode_pool(material: Material, stocks: list[Stock], tower: LiteTower) -> Tensor:
    """Render and encode the frames of a pool: float16 ``(rows, cells, CHANNELS)``."""
    parts = []
    for number, stock in enumerate(stocks):
        frames: list[Pixels] = [render_frame(stock.shot, t, None, material) for t in range(FRAMES)]
        for needle in stock.rows:
            frames += [
                render_frame(stock.shot, t, needle, material)
                for t in range(needle.start, needle.end)
            ]
        for first in range(0, len(frames), BATCH):
            batch = torch.from_numpy(np.stack(frames[first : first + BATCH]))
            parts.append(tower.cells(batch).half())
        if number % 20 == 0:
            print(f"encoded {number} of {len(stocks)} shots", flush=True)
    return torch.cat(parts)


class Pool:
    """A pool on disk; made if it is not there.

    Args:
        path: of its features.
        material: where its shots come from.
        count: shots.
        seed: of the choice.
    """

    def __init__(self, path: Path, material: Material, count: int, seed: int = 0) -> None:
        self.stocks, rows = plan_pool(material, count, seed)
        if not path.is_file():
            save_atomically({"features": encode_pool(material, self.stocks, LiteTower())}, path)
        self.features: Tensor = torch.load(path, weights_only=True, mmap=True)["features"]
        if len(self.features) != rows:
            raise ValueError(
                f"{path}: got {len(self.features)} frames, expected {rows}. Delete this pool."
            )

    def draw(self, rng: np.random.Generator) -> tuple[Clip, Tensor]:
        """Compose a clip.

        Returns:
            the clip and its features, float32 ``(FRAMES, cells, CHANNELS)``.
        """
        chosen = [self.stocks[i] for i in rng.choice(len(self.stocks), 3, replace=False).tolist()]
        clip, order = compose(rng, [s.shot for s in chosen], [s.runs for s in chosen])
        rows = [
            chosen[number].row(frame, clip.needle_at(frame))
            for number, scene in zip(order, clip.scenes, strict=True)
            for frame in range(scene.start, scene.end)
        ]
        return clip, self.features[rows].float()
