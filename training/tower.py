"""Stage a: the tower and the projector alone, with linear heads on every cell."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlavaOnevisionForConditionalGeneration

from sttm.nano.clips import COLOUR_NAMES, NEEDLE_SIZES, Clip, Needle, make_clip
from sttm.nano.glyphs import LETTERS, glyph_mask, glyph_width, stamp
from sttm.nano.palette import COLOURS
from training.data import HELD_OUT, Batches, train_clip
from training.labels import IGNORE, NO_COLOUR, NO_DIGIT, cell_labels
from training.model import CellHead, video_tokens

NONE_WEIGHT = 0.1  # of the cells without a needle: there are many more


@dataclass(frozen=True)
class CellBatch:
    """frames uint8 ``(B, T, H, W, 3)`` and labels int64 ``(B, T, 64, 3)``."""

    frames: Tensor
    labels: Tensor


class CellBatches(Batches):
    """Eight clips of three frames; three quarters of them crowded, the others as they come."""

    clips, frames, crowded = 8, 3, 6

    def __getitem__(self, index: int) -> CellBatch:
        rng = self.generator(index)
        clips = [
            crowd(train_clip(rng, self.frames, 0), rng)
            if i < self.crowded
            else train_clip(rng, self.frames, int(rng.integers(3, 5)))
            for i in range(self.clips)
        ]
        return CellBatch(
            torch.from_numpy(np.stack([clip.frames for clip in clips])),
            torch.from_numpy(np.stack([cell_labels(clip) for clip in clips])),
        )


def crowd(clip: Clip, rng: np.random.Generator, side: int = 3) -> Clip:
    """Fill every frame with up to nine digits, so that one frame teaches more.

    Each of the ``side * side`` parts of a frame holds a digit (75 %), a letter (15 %) or nothing.
    """
    frames, canvas = clip.frames.copy(), clip.frames.shape[1]
    part = canvas // side
    needles = []
    for t, y, x in np.ndindex(len(frames), side, side):
        kind = rng.random()
        if kind > 0.9:
            continue
        size = NEEDLE_SIZES[int(rng.integers(len(NEEDLE_SIZES)))]
        left = x * part + int(rng.integers(part - glyph_width(size)))
        top = y * part + int(rng.integers(part - size))
        colour = COLOUR_NAMES[int(rng.integers(len(COLOUR_NAMES)))]
        red, green, blue = (c + int(rng.integers(-18, 19)) for c in COLOURS[colour])
        shade = (min(max(red, 0), 255), min(max(green, 0), 255), min(max(blue, 0), 255))
        digit = int(rng.integers(10))
        name = str(digit) if kind < 0.75 else sorted(LETTERS)[int(rng.integers(len(LETTERS)))]
        stamp(frames[t], glyph_mask(name, size), shade, top=top, left=left)
        if kind < 0.75:
            needles.append(Needle(digit, colour, t, 1, left, top, size, canvas))
    return dataclasses.replace(clip, frames=frames, needles=tuple(needles))


def cell_loss(head: CellHead, tokens: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of the three read-outs.

    Args:
        tokens: ``(N, WIDTH)`` video tokens.
        labels: int64 ``(N, 3)``.
    """
    digit, colour, quadrant = head(tokens)
    digit_weight = torch.ones(NO_DIGIT + 1)
    digit_weight[NO_DIGIT] = NONE_WEIGHT
    colour_weight = torch.ones(NO_COLOUR + 1)
    colour_weight[NO_COLOUR] = NONE_WEIGHT
    loss: Tensor = (
        cross_entropy(digit, labels[:, 0], weight=digit_weight, ignore_index=IGNORE)
        + cross_entropy(colour, labels[:, 1], weight=colour_weight, ignore_index=IGNORE)
        + 0.3 * cross_entropy(quadrant, labels[:, 2], ignore_index=IGNORE)
    )
    return loss


@torch.no_grad()
def cell_accuracy(
    model: LlavaOnevisionForConditionalGeneration, head: CellHead, clips: int = 64
) -> dict[str, float]:
    """Accuracy of the read-outs on held-out clips, for cells with a needle and for empty ones."""
    made = [make_clip(HELD_OUT + i, 4, num_needles=4) for i in range(clips)]
    frames = torch.from_numpy(np.stack([clip.frames for clip in made]))
    labels = torch.from_numpy(np.stack([cell_labels(clip) for clip in made])).flatten(0, 2)
    tokens = video_tokens(model, frames)[:, :-1].flatten(0, 1)
    right = [(logits.argmax(-1) == labels[:, i]) for i, logits in enumerate(head(tokens))]
    full = (labels[:, 0] >= 0) & (labels[:, 0] < NO_DIGIT)
    empty = labels[:, 0] == NO_DIGIT
    names = ("digit", "colour", "quadrant")
    found = {name: float(r[full].float().mean()) for name, r in zip(names, right, strict=True)}
    return found | {"empty": float(right[0][empty].float().mean())}
