"""Padding in masks: read off what the model was given, and put together for what it needs."""

from typing import Any

import torch

from sttm.errors import UnsupportedModelError
from sttm.models import transformers_api as api


def join_padding(
    cached: torch.Tensor | None, new: torch.Tensor | None, sizes: tuple[int, int]
) -> torch.Tensor | None:
    """Put the padding of a cache and of a forward together.

    Args:
        cached: ``(B, sizes[0])`` bool of what the cache holds; None if none of it is padding.
        new: ``(B, sizes[1])`` bool of the forward's tokens (behind its reduction), or None.
        sizes: entries that the cache holds, and tokens of the forward.

    Returns:
        ``(B, sum of sizes)`` bool, False for padding; None if there is none.
    """
    some = cached if cached is not None else new
    if some is None:
        return None
    if cached is None:
        cached = some.new_ones(len(some), sizes[0])
    if new is None:
        new = some.new_ones(len(some), sizes[1])
    return torch.cat([cached, new.to(cached.device)], 1)


def split_padding(mask: Any, past: int, length: int) -> tuple[Any, Any]:
    """Split the model's mask into padding of the past and of this chunk.

    Args:
        mask: 2-D ``(B, past + length)``; or what ``generate`` makes of it for a static cache,
            4-D with one row per query, or a dict of those; or None.
        past: entries of the cache in the mask's own coordinates.
        length: tokens of this forward.

    Returns:
        ``(B, past)`` and ``(B, length)`` bool, each None if it has no padding.

    Raises:
        UnsupportedModelError: a 4-D mask that is more than causal and padding.
    """
    mask = api.full_mask(mask)
    if mask is None or length == 1:
        return None, None
    if mask.ndim == 4:
        mask = _padding_of(mask[:, 0, :, : past + length], past)
    mask = mask.bool()
    parts = mask[:, : mask.shape[1] - length], mask[:, -length:]
    return tuple(None if bool(part.all()) else part for part in parts)  # type: ignore[return-value]


def _padding_of(mask: torch.Tensor, past: int) -> torch.Tensor:
    """Read the padding ``(B, entries)`` bool off ``(B, queries, entries)``, bool or additive."""
    seen = mask if mask.dtype == torch.bool else mask == 0
    valid = seen[:, -1]  # the last query sees every token that is no padding
    place = torch.arange(seen.shape[2], device=seen.device)
    causal = place <= past + torch.arange(seen.shape[1], device=seen.device)[:, None]
    wanted = causal & valid[:, None]
    real = valid[:, past:]
    if not torch.equal(seen[real], wanted[real]):
        raise UnsupportedModelError(
            "got a 4-D attention mask that is more than causal and padding, expected a 2-D one "
            "(batch, tokens) with 1 for real tokens: others cannot follow the reduction."
        )
    return valid
