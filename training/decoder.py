"""Stages b onwards: decoder and tower together, on packed questions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from transformers import LlavaOnevisionForConditionalGeneration

from training.ask import Packer, held_out
from training.model import CellHead, video_tokens
from training.packing import Packed, answer_loss, answers_right, packed_logits
from training.text import build_tokenizer
from training.tower import cell_loss

CELL_WEIGHT = 0.2  # of the per-cell loss, which keeps the tower sharp


def packed_loss(
    model: LlavaOnevisionForConditionalGeneration,
    head: CellHead,
    *,
    weights: Mapping[str, float],
    crowd_weight: float,
) -> Callable[[Packed], Tensor]:
    """Answers, and a little of the per-cell labels, of these clips and of crowded frames."""

    def loss_of(batch: Packed) -> Tensor:
        logits, video = packed_logits(model, batch)
        cells = cell_loss(head, video.flatten(0, 1), batch.cells.flatten(0, 2))
        loss = answer_loss(logits, batch, weights) + CELL_WEIGHT * cells
        if batch.crowd is not None:
            tokens = video_tokens(model, batch.crowd.frames)[:, :-1].flatten(0, 1)
            loss = loss + crowd_weight * cell_loss(head, tokens, batch.crowd.labels.flatten(0, 2))
        return loss

    return loss_of


def packed_accuracy(
    model: LlavaOnevisionForConditionalGeneration,
    lengths: tuple[tuple[int, int], ...],
    scene_lengths: tuple[tuple[int, int], ...] = (),
) -> Callable[[], dict[str, float]]:
    """Accuracy by task on held-out clips and scenes, for several (frames, clips)."""
    packer = Packer(build_tokenizer())
    return accuracy_on(
        model,
        {
            f"{'scene' * scenes}{frames}": [
                held_out(packer, frames, min(4, count - i), i, scenes=scenes)
                for i in range(0, count, 4)
            ]
            for scenes, wanted in ((False, lengths), (True, scene_lengths))
            for frames, count in wanted
        },
    )


def accuracy_on(
    model: LlavaOnevisionForConditionalGeneration, batches: Mapping[str, Sequence[Packed]]
) -> Callable[[], dict[str, float]]:
    """Accuracy by task on each of several named sets of batches."""

    @torch.no_grad()
    def evaluate() -> dict[str, float]:
        found: dict[str, float] = {}
        for name, parts in batches.items():
            tally: dict[str, list[bool]] = {}
            for batch in parts:
                for task, right in answers_right(packed_logits(model, batch)[0], batch):
                    tally.setdefault(f"{task}@{name}", []).append(right)
            found |= {key: sum(hits) / len(hits) for key, hits in sorted(tally.items())}
        return found

    return evaluate
