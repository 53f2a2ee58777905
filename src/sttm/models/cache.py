"""Cache layers that know that a video in them was reduced.

A reduced layer holds fewer entries than tokens were seen. It keeps reporting the original
length (so that positions, ``generate`` and every mask of the layers below stay right) and tells
the mask factories the physical length with an offset, as sliding-window layers do.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers.cache_utils import (
    Cache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    LinearAttentionLayer,
    StaticLayer,
)

from sttm.errors import UnsupportedModelError
from sttm.models.transformers_api import mismatch


@dataclass(frozen=True, eq=False)
class Staged:
    """What holds in a cache layer once its next update has appended its entries.

    Args:
        removed: tokens that were seen and are not in the cache, equal for all rows of the batch.
        valid: ``(B, entries)`` bool, False for padding; None if there is none.
        shift: ``(B, 1)`` int64 to subtract from the original positions of later tokens
            (positions "reassigned"); None if positions are kept.
        video_mask: ``(B, entries)`` bool, True for entries that stem from video tokens; None unless
            a method prunes them while decoding.
        num_after_video: entries behind the video that the update brings; None if it brings none.
        attended: ``(B, entries)`` float32 >= 0, the attention that the new token of the update pays
            to video tokens in this layer, 0 for other entries; None unless it was asked for.
    """

    removed: int
    valid: torch.Tensor | None
    shift: torch.Tensor | None
    video_mask: torch.Tensor | None = None
    num_after_video: int | None = None
    attended: torch.Tensor | None = None


# What is kept for every row of the batch.
_PER_ROW = ("valid", "shift", "video_mask", "attended")


class ReducedLayer:
    """What every cache layer that takes part in a reduction adds to its library class.

    Layers below the reduction use ``crop_limit`` only.

    Attributes:
        active: whether a reduction took place; the other attributes matter only then.
        removed: see `Staged`.
        valid: see `Staged`.
        shift: see `Staged`.
        video_mask: see `Staged`.
        attended: see `Staged`; of the latest update, if that was one new token.
        crop_limit: entries at the end of the last video; crop() leaves at least these.
    """

    active: bool = False
    removed: int = 0
    valid: torch.Tensor | None = None
    shift: torch.Tensor | None = None
    video_mask: torch.Tensor | None = None
    attended: torch.Tensor | None = None
    crop_limit: int = 0
    _staged: Staged | None = None

    @classmethod
    def adopt(cls, layer: Any) -> Any:
        """Make a reduced layer that takes over the tensors of ``layer``."""
        new = cls.__new__(cls)
        new.__dict__.update(layer.__dict__)
        return new

    def prepare_update(self, staged: Staged) -> None:
        """Say what holds once the next :meth:`update` has appended its entries."""
        self._staged = staged

    def remember(self, attended: torch.Tensor) -> None:
        """Add to what the next :meth:`update` brings how its token attends to the video."""
        assert self._staged is not None
        self._staged = replace(self._staged, attended=attended)

    def update(self, *args: Any, **kwargs: Any) -> Any:
        """Append keys and values; refused unless the attached hooks prepared it."""
        if self._staged is None and not self.active:
            return super().update(*args, **kwargs)  # type: ignore[misc]
        if self._staged is None:
            raise UnsupportedModelError(
                "this KV cache holds a reduced video, but nothing is attached to the model. "
                "Attach the same method at the same layer again before using the cache."
            )
        staged, self._staged = self._staged, None
        self.active, self.valid, self.shift = True, staged.valid, staged.shift
        self.video_mask, self.attended = staged.video_mask, staged.attended
        result = super().update(*args, **kwargs)  # type: ignore[misc]
        self.removed = staged.removed
        if staged.num_after_video is not None:
            self.protect(staged.num_after_video)
        return result

    def protect(self, num_after_video: int) -> None:
        """Let :meth:`crop` take at most the last ``num_after_video`` entries."""
        self.crop_limit = self.num_entries() - num_after_video

    def num_entries(self) -> int:
        """Entries per row that are really in memory (the position counter, for sliding layers)."""
        return int(super().get_seq_length())  # type: ignore[misc]

    def get_seq_length(self) -> Any:
        """Tokens seen, reduced ones included (a tensor for static layers)."""
        length = super().get_seq_length()  # type: ignore[misc]
        return length + self.removed if self.is_initialized else length  # type: ignore[attr-defined]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Physical length and offset, in the sliding-window convention."""
        length, offset = super().get_mask_sizes(query_length)  # type: ignore[misc]
        return length, offset + self.removed

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens (a negative count), but nothing of a reduced video.

        Raises:
            UnsupportedModelError: the reduced video itself would be cut.
        """
        if self.crop_limit and self.num_entries() - abs(tokens_to_remove) < self.crop_limit:
            raise UnsupportedModelError(
                f"crop: got {tokens_to_remove}, expected at most "
                f"{self.num_entries() - self.crop_limit} tokens after the reduced video. "
                "Prefill the video again instead."
            )
        super().crop(tokens_to_remove)  # type: ignore[misc]
        for name in ("valid", "video_mask"):
            value = getattr(self, name)
            if value is not None and tokens_to_remove:
                setattr(self, name, value[:, : -abs(tokens_to_remove)])
        if tokens_to_remove:
            self.attended = None  # it was a forgotten token's

    def reset(self) -> None:
        """Empty the layer, its record of reductions included."""
        super().reset()  # type: ignore[misc]
        self.active, self.removed, self.crop_limit = False, 0, 0
        self.valid, self.shift, self.video_mask = None, None, None
        self.attended, self._staged = None, None

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Reorder the rows for beam search."""
        super().reorder_cache(beam_idx)  # type: ignore[misc]
        self._select(beam_idx)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        super().batch_repeat_interleave(repeats)  # type: ignore[misc]
        for name in _PER_ROW:
            value = getattr(self, name)
            setattr(self, name, None if value is None else value.repeat_interleave(repeats, 0))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep only some rows."""
        super().batch_select_indices(indices)  # type: ignore[misc]
        self._select(indices)

    def _select(self, rows: torch.Tensor) -> None:
        for name in _PER_ROW:
            value = getattr(self, name)
            setattr(self, name, None if value is None else value[rows.to(value.device)])


class ReducedDynamicLayer(ReducedLayer, DynamicLayer):
    """A growing layer, the default of ``generate``."""

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Physical length and offset, in the sliding-window convention."""
        return self.num_entries() + query_length, self.removed if self.is_initialized else 0


class ReducedSlidingLayer(ReducedLayer, DynamicSlidingWindowLayer):
    """A growing layer that keeps a window; the window counts entries that are held."""


class ReducedStaticLayer(ReducedLayer, StaticLayer):
    """A preallocated layer."""


_REDUCED: dict[type, type[ReducedLayer]] = {
    DynamicLayer: ReducedDynamicLayer,
    DynamicSlidingWindowLayer: ReducedSlidingLayer,
    StaticLayer: ReducedStaticLayer,
}
_PLAIN = (LinearAttentionLayer,)
# What transformers calls on its layers and ours do in their own way. Static layers cannot always do
# the rest.
_OVERRIDDEN = ("update", "get_seq_length", "get_mask_sizes", "reset", "reorder_cache")
_OVERRIDDEN_IF_GROWING = ("crop", "batch_repeat_interleave", "batch_select_indices")


def check_layer_classes() -> None:
    """Check that the library's cache layers have the methods that ours replace.

    Raises:
        IncompatibleTransformersError: one is gone, so that ours would never be called.
    """
    for kind in _REDUCED:
        names = _OVERRIDDEN if kind is StaticLayer else (*_OVERRIDDEN, *_OVERRIDDEN_IF_GROWING)
        missing = [name for name in names if not hasattr(kind, name)]
        if missing:
            raise mismatch(f"a {kind.__name__} without {', '.join(missing)}", "these methods")


def adopt_layer(cache: Cache, index: int) -> ReducedLayer | None:
    """Return the reduced layer at ``index``, replacing the library's in place.

    None for linear-attention layers: they hold a state, not one entry per token.

    Raises:
        UnsupportedModelError: the layer is of a kind that cannot hold a reduced video.
    """
    if cache.layer_class_to_replicate is not None:
        while len(cache.layers) <= index:
            cache.layers.append(cache.layer_class_to_replicate())
    layer = cache.layers[index]
    if isinstance(layer, ReducedLayer):
        return layer
    if type(layer) in _PLAIN:
        return None
    reduced = _REDUCED.get(type(layer))
    if reduced is None or getattr(layer, "record_past", False):
        raise UnsupportedModelError(
            f"got a {type(cache).__name__} whose layer {index} is a {type(layer).__name__}, "
            f"expected one of {', '.join(kind.__name__ for kind in (*_REDUCED, *_PLAIN))}. "
            "Use the default DynamicCache, or a StaticCache."
        )
    cache.layers[index] = reduced.adopt(layer)
    adopted: ReducedLayer = cache.layers[index]
    return adopted


def reduced_layers(cache: Cache | None) -> Iterator[tuple[int, ReducedLayer]]:
    """Yield the layers of ``cache`` that hold a reduced video."""
    for index, layer in enumerate(cache.layers if cache is not None else ()):
        if isinstance(layer, ReducedLayer) and layer.active:
            yield index, layer
