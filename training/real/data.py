"""Training batches from a pool of encoded frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from sttm.nano.clips import QUADRANTS
from training.ask import Packer, choose
from training.data import Batches
from training.labels import IGNORE, CellBatch, Labels, overlap
from training.model import GRID
from training.packing import Packed
from training.real.clips import FRAMES, SIZE, Clip
from training.real.model import NONE, tokenizer
from training.real.mrope import with_mrope
from training.real.pool import Pool
from training.real.questions import make_questions
from training.real.sources import BACKGROUNDS, KINDS
from training.real.tower import placed

WEIGHTS = {"count": 2.0, "order": 2.0, "change": 4.0, "cut": 3.0, "background": 1.0}


@dataclass(frozen=True)
class RealRecipe:
    """What the batches of a stage hold.

    Args:
        frames: kept of each clip of `FRAMES`; those with needles and at cuts are among them.
        clips: in a batch.
        needles: at most, in a clip.
        questions: at most, about a clip.
        mrope: positions in time, row and column, see `training.real.mrope`.
    """

    frames: int
    clips: int
    needles: int = 4
    questions: int = 10
    mrope: bool = False


def cell_labels(clip: Clip) -> Labels:
    """Label every cell of every frame, see ``training.labels.cell_labels``.

    Returns:
        int64 ``(T, GRID**2, 3)``: kind (`NONE` without a needle), quadrant, background.
    """
    labels = np.full((clip.frames, GRID, GRID, 3), IGNORE)
    labels[..., 0] = NONE
    for scene in clip.scenes:
        if scene.shot.source in BACKGROUNDS:
            name = list(BACKGROUNDS).index(scene.shot.source)
            labels[scene.start : scene.end, ..., 2] = name
    for needle in clip.needles:
        width, height = needle.box
        share = overlap(needle.y, height, needle.x, width, SIZE // GRID)
        here = labels[needle.start : needle.end]
        here[:, share > 0] = IGNORE
        facts = (list(KINDS).index(needle.kind), QUADRANTS.index(needle.quadrant))
        here[:, share >= min(0.35, share.max()), :2] = facts
    return labels.reshape(clip.frames, GRID * GRID, 3)


class CellBatches(Batches):
    """Frames of random clips with their labels: for projector and read-outs."""

    def __init__(self, pool: Pool, seed: int, stage: str, first: int, steps: int) -> None:
        super().__init__(seed, stage, first, steps)
        self.pool = pool

    def __getitem__(self, index: int) -> CellBatch:
        rng = self.generator(index)
        made = [self.pool.draw(rng) for _ in range(8)]
        cells = torch.stack([placed(features) for _, features in made])
        return CellBatch(cells, torch.from_numpy(np.stack([cell_labels(c) for c, _ in made])))


class AskBatches(Batches):
    """Packed questions about clips of a pool."""

    def __init__(
        self,
        recipe: RealRecipe,
        pool: Pool,
        seed: int,
        stage: str,
        first: int,
        steps: int,
        words: PreTrainedTokenizerBase | None = None,
    ) -> None:
        super().__init__(seed, stage, first, steps)
        self.recipe, self.pool, self.packer = recipe, pool, Packer(words or tokenizer())

    def __getitem__(self, index: int) -> Packed:
        rng, recipe = self.generator(index), self.recipe
        cells, labels, asked, slots = [], [], [], []
        for _ in range(recipe.clips):
            clip, features = self._draw(rng)
            kept = kept_frames(clip, rng, recipe.frames)
            cells.append(placed(features[kept]))
            labels.append(torch.from_numpy(cell_labels(clip)[kept]))
            questions = make_questions(clip, rng)
            asked.append(choose(questions, rng, recipe.questions, WEIGHTS))
            slots.append([*kept, FRAMES])
        groups = [[[i] for i in range(len(questions))] for questions in asked]
        batch = CellBatch(torch.stack(cells), torch.stack(labels))
        packed = self.packer.pack(batch, asked, groups, slots)
        return with_mrope(packed, slots) if recipe.mrope else packed

    def _draw(self, rng: np.random.Generator) -> tuple[Clip, torch.Tensor]:
        while True:
            clip, features = self.pool.draw(rng)
            fits = len(needed_frames(clip)) <= self.recipe.frames
            if fits and len(clip.needles) <= self.recipe.needles and make_questions(clip, rng):
                return clip, features


def needed_frames(clip: Clip) -> set[int]:
    """The frames that answers depend on: with needles, around cuts, the first and the last."""
    shown = {t for needle in clip.needles for t in range(needle.start, needle.end)}
    cuts = {t for scene in clip.scenes[1:] for t in (scene.start - 1, scene.start)}
    return shown | cuts | {0, clip.frames - 1}


def kept_frames(clip: Clip, rng: np.random.Generator, count: int) -> list[int]:
    """Choose ``count`` frames, the needed ones among them."""
    needed = needed_frames(clip)
    others = [t for t in range(clip.frames) if t not in needed]
    more = rng.choice(others, count - len(needed), replace=False).tolist() if others else []
    return sorted(needed | set(more))
