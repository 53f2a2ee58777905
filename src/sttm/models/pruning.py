"""Hiding video tokens from a token that is being decoded."""

from typing import Any

import torch

from sttm.methods.base import DecodePruning
from sttm.models.attention_scores import Past, last_token_attention
from sttm.models.cache import ReducedLayer
from sttm.ops.selection import stable_topk_per_row


def video_entries(kept: ReducedLayer | None, chunk: torch.Tensor) -> torch.Tensor:
    """Mark the entries of videos, of the cache and then of this forward.

    Args:
        kept: a layer that holds a reduced video, as it was before this forward; or None.
        chunk: ``(B, L)`` bool, video tokens of this forward behind its reduction.

    Returns:
        ``(B, entries)`` bool.
    """
    if kept is None:
        return chunk
    before = kept.video_mask
    if before is None:
        before = chunk.new_zeros(len(chunk), kept.num_entries())
    return torch.cat([before, chunk.to(before.device)], 1)


@torch.no_grad()
def video_attention(
    layer: Any,
    hidden: torch.Tensor,
    rotary: Any,
    held: ReducedLayer,
    *,
    valid: torch.Tensor | None,
    video: torch.Tensor,
) -> torch.Tensor:
    """Return how much one new token per row attends to the videos.

    Args:
        layer: the decoder layer that is asked.
        hidden: ``(B, 1, C)``, its input.
        rotary: the cos and sin it is given.
        held: its layer of the cache, as it was before this forward.
        valid: ``(B, entries)`` bool, False for padding; None if there is none.
        video: ``(B, entries)`` bool.

    Returns:
        ``(B, entries)`` float32, mean over heads; 0 for entries that are no video's.
    """
    count = held.num_entries()
    past = Past(held.keys[:, :, :count], None if valid is None else valid[:, :-1])  # type: ignore[attr-defined]
    attention = last_token_attention(layer, hidden, rotary, past=past)
    return torch.where(video.to(attention.device), attention, 0.0)


@torch.no_grad()
def seen_entries(
    attention: torch.Tensor,
    before: torch.Tensor | None,
    pruning: DecodePruning,
    *,
    valid: torch.Tensor | None,
    video: torch.Tensor,
) -> torch.Tensor:
    """Choose what one new token per row still sees of the videos: what it attends to most, or all.

    Args:
        attention: ``(B, entries)`` from `video_attention`.
        before: ``(B, entries - 1)``, that of the new token before; None if this is the first one.
        pruning: what is hidden, and when.
        valid: ``(B, entries)`` bool, False for padding; None if there is none.
        video: ``(B, entries)`` bool.

    Returns:
        ``(B, entries)`` bool, False for hidden entries and padding.
    """
    video = video.to(attention.device)
    counts = (video.sum(1).double() * pruning.keep + 1e-9).long()
    chosen = stable_topk_per_row(torch.where(video, attention, -1.0), counts)
    if before is not None:
        now = attention[:, :-1].double()  # the new token itself is no video's
        alike = torch.cosine_similarity(now, before.to(now), dim=1)
        chosen = chosen | (alike >= pruning.threshold)[:, None]
    real = torch.ones_like(video) if valid is None else valid.to(video.device)
    return real & (~video | chosen)
