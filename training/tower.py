"""Stage a: the tower and the projector alone, with linear heads on every cell."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlavaOnevisionForConditionalGeneration

from sttm.nano.clips import make_clip
from training.crowd import crowd
from training.data import HELD_OUT, Batches, train_clip
from training.labels import IGNORE, NO_DIGIT, CellBatch, cell_batch
from training.model import CellHead, video_tokens

NONE_WEIGHT = 0.1  # of the cells without a needle: there are many more


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
        return cell_batch(clips)


def cell_loss(head: CellHead, tokens: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of the read-outs.

    Args:
        tokens: ``(N, WIDTH)`` video tokens.
        labels: int64 ``(N, columns)``.
    """
    loss = tokens.new_zeros(())
    for column, (read_out, logits) in enumerate(zip(head.read_outs.values(), head(tokens))):
        wanted = labels[:, column]
        if read_out.none is None:
            part = _known(logits, wanted)
        else:
            weight = torch.ones(read_out.classes)
            weight[read_out.none] = NONE_WEIGHT
            part = cross_entropy(logits, wanted, weight=weight, ignore_index=IGNORE)
        loss = loss + read_out.weight * part
    return loss


def _known(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy over the cells that have a label; 0 if none has."""
    total = cross_entropy(logits, labels, ignore_index=IGNORE, reduction="sum")
    return total / (labels != IGNORE).sum().clamp(min=1)


@torch.no_grad()
def cell_accuracy(
    model: LlavaOnevisionForConditionalGeneration, head: CellHead, clips: int = 64
) -> dict[str, float]:
    """Accuracy of the read-outs on held-out clips, for cells with a needle and for empty ones."""
    made = [make_clip(HELD_OUT + i, 4, num_needles=4) for i in range(clips)]
    batch = cell_batch(made)
    labels = batch.labels.flatten(0, 2)
    tokens = video_tokens(model, batch.frames)[:, :-1].flatten(0, 1)
    right = [(logits.argmax(-1) == labels[:, i]) for i, logits in enumerate(head(tokens))]
    full = (labels[:, 0] >= 0) & (labels[:, 0] < NO_DIGIT)
    empty = labels[:, 0] == NO_DIGIT
    names = ("digit", "colour", "quadrant")
    found = {name: float(r[full].float().mean()) for name, r in zip(names, right, strict=True)}
    return found | {"empty": float(right[0][empty].float().mean())}
