"""What decoder layers behind a reduction are given: masks, rotary embeddings, cache records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache

from sttm.errors import UnsupportedModelError
from sttm.models import transformers_api as api
from sttm.models.adapter import WEIGHTED, Positions, VideoSpan
from sttm.models.cache import ReducedLayer, adopt_layer
from sttm.models.reduction import BatchReduction, reassigned_positions


@dataclass(frozen=True)
class RotaryCall:
    """One call of the decoder's rotary embedding."""

    module: Any
    call: Mapping[str, Any]
    signature: api.Signature
    output: Any

    @property
    def positions(self) -> torch.Tensor:
        """``(B, N)`` or ``(axes, B, N)``, as the decoder computed them."""
        ids: torch.Tensor = self.signature.given(self.call, self.signature.names[1])
        return ids

    def again(self, hidden: torch.Tensor, ids: torch.Tensor) -> Any:
        """Call with other positions (without hooks: this is no call of the model's)."""
        changed = dict(zip(self.signature.names, (hidden, ids)))
        return self.module.forward(**{**self.call, **changed})


class LayerInputs:
    """Inputs of the layers behind the reduction, during one forward pass.

    Args:
        config: the text configuration.
        types: the type of every decoder layer.
        positions: the position policy.
        rows: the videos of each row.
        reduction: how this forward was shortened; None if only the cache holds a reduced video.
        kept: a layer of the cache that holds a reduced video, as it was before this forward.
        rotary: the rotary calls of this forward.
        masks: builds the masks of each type of decoder layer.

    Attributes:
        tail: tokens behind this forward's last video; None if it carries none.
        video: ``(B, entries)`` bool, what belongs to videos, of what the cache holds and then of
            this forward; None unless a method prunes it while answering.
        valid: the same for what is no padding; None if there is none.
    """

    tail: int | None = None
    video: torch.Tensor | None = None
    valid: torch.Tensor | None = None

    def __init__(
        self,
        config: Any,
        types: Sequence[str],
        positions: Positions,
        rows: Sequence[Sequence[VideoSpan]],
        reduction: BatchReduction | None,
        kept: ReducedLayer | None,
        rotary: Sequence[RotaryCall],
        masks: Mapping[str, api.MaskFunction],
    ) -> None:
        self._config = config
        self._positions = positions
        self._reduction = reduction
        self._rotary = rotary
        self._types = types
        self._functions = masks
        self._masks: dict[tuple[str, bool], Any] = {}
        self._embeddings: dict[int, Any] = {}
        self._new_ids: torch.Tensor | None = None
        self._seen: torch.Tensor | None = None
        self._pruned_from = 0
        self._shift = None if kept is None else kept.shift
        if positions == "reassigned":
            self._reassign(rows)

    def set_padding(
        self, held: torch.Tensor | None, chunk: torch.Tensor | None, sizes: tuple[int, int]
    ) -> None:
        """Say what is padding.

        Args:
            held: ``(B, sizes[0])`` bool of what the cache holds; None if none of it is padding.
            chunk: ``(B, sizes[1])`` bool of this forward's tokens (after the reduction), or None.
            sizes: entries that the cache holds, and tokens of this forward.
        """
        some = held if held is not None else chunk
        if some is None:
            return
        if held is None:
            held = some.new_ones(len(some), sizes[0])
        if chunk is None:
            chunk = some.new_ones(len(some), sizes[1])
        self.valid = torch.cat([held, chunk.to(held.device)], 1)

    def prune(self, seen: torch.Tensor, layer: int) -> None:
        """Hide entries from attention in the layers from ``layer`` on, during this forward.

        Args:
            seen: ``(B, entries)`` bool, False for padding too.
            layer: a decoder layer.
        """
        self._seen, self._pruned_from = seen, layer

    def arguments(
        self, index: int, hidden: torch.Tensor, cache: Cache | None, call: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Replace what layer ``index`` must get differently; prepare its cache layer."""
        layer = None if cache is None else adopt_layer(cache, index)
        mask, rotary = call[api.ATTENTION_MASK], call[api.POSITION_EMBEDDINGS]
        single = self._reduction is None and hidden.shape[1] == 1 and mask is None
        if not single or self._visible(index) is not None:
            mask = self._mask(index, hidden, cache, layer)
        if layer is not None:
            gone = self._reduction.removed if self._reduction is not None else 0
            layer.stage(layer.removed + gone, self.valid, self._shift, self.tail, self.video)
        changed: dict[str, Any] = {api.ATTENTION_MASK: mask}
        if rotary is not None:
            changed[api.POSITION_EMBEDDINGS] = self._embed(hidden, rotary)
        elif self._types[index] not in api.RECURRENT:
            raise api.mismatch(f"a decoder layer {index} that rotates by itself", "cos and sin")
        if self._reduction is not None and call.get(api.POSITION_IDS) is not None:  # optional
            # FlashAttention takes gaps in these for packed sequences, and reads nothing else.
            changed[api.POSITION_IDS] = torch.arange(hidden.shape[1], device=hidden.device)[None]
        return {**call, **changed}

    def _mask(
        self, index: int, hidden: torch.Tensor, cache: Cache | None, layer: ReducedLayer | None
    ) -> Any:
        """Build the mask with the library's own factory, once per layer type."""
        kind, valid = self._types[index], self._visible(index)
        key = (kind, valid is self.valid)
        if key in self._masks:
            return self._masks[key]
        if kind not in self._functions:
            raise UnsupportedModelError(
                f"got a decoder layer of type {kind!r}, expected full, sliding or linear attention."
            )
        if valid is not None and layer is not None and layer.removed:
            valid = torch.cat([valid.new_ones(len(valid), layer.removed), valid], 1)
        self._masks[key] = self._functions[kind](self._config, hidden, valid, cache, index)
        return self._masks[key]

    def _visible(self, index: int) -> torch.Tensor | None:
        """Return what a layer may attend to; a layer without attention weights: what is there."""
        pruned = index >= self._pruned_from and self._types[index] in WEIGHTED
        return self._seen if pruned and self._seen is not None else self.valid

    def _reassign(self, rows: Sequence[Sequence[VideoSpan]]) -> None:
        """Compute the new ids once; every rotary call of a forward has the same ones."""
        if not self._rotary:
            raise api.mismatch("decoder layers without rotary positions", "a call of rotary_emb")
        ids = self._rotary[-1].positions
        axes = ids if ids.ndim == 3 else ids[None]
        if self._shift is not None:
            axes = axes - self._shift.to(axes.device)
        if self._reduction is not None:
            axes = axes.expand(axes.shape[0], len(self._reduction.plans), axes.shape[2])
            axes, moved = reassigned_positions(axes, self._reduction.plans, rows)
            self._shift = -moved if self._shift is None else self._shift - moved
        self._new_ids = axes if ids.ndim == 3 else axes[0]

    def _embed(self, hidden: torch.Tensor, given: Any) -> Any:
        """Turn the cos and sin that a layer was given into those of the shorter sequence."""
        key = id(given)
        if key not in self._embeddings:
            if self._new_ids is not None:
                self._embeddings[key] = self._source(given).again(hidden, self._new_ids)
            elif self._reduction is None:
                self._embeddings[key] = given
            elif self._positions == "merged":
                batch = len(self._reduction.plans)
                whole = (part.expand(batch, *part.shape[1:]) for part in given)
                self._embeddings[key] = tuple(self._reduction.reduce(part) for part in whole)
            else:
                self._embeddings[key] = tuple(self._reduction.gather(part) for part in given)
        return self._embeddings[key]

    def _source(self, given: Any) -> RotaryCall:
        for call in self._rotary:
            if call.output[0] is given[0]:
                return call
        raise UnsupportedModelError(
            "got rotary embeddings that do not come from the decoder's rotary_emb, expected those. "
            "Use positions='survived'."
        )


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
