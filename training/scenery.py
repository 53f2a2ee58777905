"""The tower on scenes: frames full of digits over backgrounds with names."""

from __future__ import annotations

import numpy as np
import torch
from transformers import LlavaOnevisionForConditionalGeneration

from sttm.nano.clips import Clip
from sttm.nano.scenes import LARGE_SIZES, make_scene
from training.crowd import crowd
from training.data import HELD_OUT, Batches, train_clip, train_scene
from training.labels import IGNORE, NO_DIGIT, CellBatch, cell_batch
from training.model import CellHead, video_tokens

READ_OUTS = ("digit", "colour", "quadrant", "background", "texture", "landmark", "relation")


def with_scenes(crowded: Clip, rng: np.random.Generator) -> CellBatch:
    """The frames of a crowded clip and as many scenes of one frame, two of three crowded.

    Every third scene holds nine small digits, every third four large ones.
    """
    scenes = [train_scene(rng, 1) for _ in crowded.frames]
    for i in range(1, len(scenes), 3):
        scenes[i] = crowd(scenes[i], rng)
    for i in range(2, len(scenes), 3):
        scenes[i] = crowd(scenes[i], rng, side=2, sizes=LARGE_SIZES)
    old, new = cell_batch([crowded]), cell_batch(scenes)
    return CellBatch(
        torch.cat([old.frames.transpose(0, 1), new.frames]),
        torch.cat([old.labels.transpose(0, 1), new.labels]),
    )


class SceneryBatches(Batches):
    """Ten crowded frames of a clip and ten scenes."""

    frames = 10

    def __getitem__(self, index: int) -> CellBatch:
        rng = self.generator(index)
        return with_scenes(crowd(train_clip(rng, self.frames, 0), rng), rng)


@torch.no_grad()
def scenery_accuracy(
    model: LlavaOnevisionForConditionalGeneration, head: CellHead, scenes: int = 64
) -> dict[str, float]:
    """Accuracy of all read-outs on the first frames of held-out scenes, where they have a label."""
    batch = cell_batch([make_scene(HELD_OUT + i, 2) for i in range(scenes)])
    labels = batch.labels.flatten(0, 2)
    labels[labels[:, 0] == NO_DIGIT, :2] = IGNORE
    tokens = video_tokens(model, batch.frames)[:, :-1].flatten(0, 1)
    found = {}
    for i, (name, logits) in enumerate(zip(READ_OUTS, head(tokens), strict=True)):
        known = labels[:, i] != IGNORE
        found[f"cell_{name}"] = float((logits.argmax(-1) == labels[:, i])[known].float().mean())
    return found
