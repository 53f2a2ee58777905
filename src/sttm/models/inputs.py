"""What decoder layers behind a reduction are given: masks, rotary embeddings, cache records."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.cache_utils import Cache

from sttm.errors import UnsupportedModelError
from sttm.models import transformers_api as api
from sttm.models.adapter import WEIGHTED, Positions
from sttm.models.cache import ReducedLayer, Staged, adopt_layer
from sttm.models.prompt import Rows
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


@dataclass(frozen=True, eq=False)
class ShortInputs:
    """What the layers behind the reduction must get differently, during one forward pass.

    Args:
        config: the text configuration.
        types: the type of every decoder layer.
        masks: builds the masks of each type of decoder layer.
        policy: the position policy.
        rotary: the calls of the rotary embedding in this forward.
        reduction: how this forward was shortened; None if only the cache holds a reduced video.
        rotary_ids: what the rotary embedding must be called with again; None if what it gave is
            shortened.
        shift: ``(B, 1)`` int64, see `ReducedLayer`.
        valid: ``(B, cached + new)`` bool, False for padding: entries of the cache first, then those
            of this forward. None if there is none.
        seen: tokens that every layer of the cache has seen behind this forward.
        entries: entries that those behind the reduction hold then.
        length: tokens per row of this forward, behind the reduction.
        video_mask: ``(B, cached + new)`` bool, True for entries that stem from video tokens;
            None unless the method prunes them while decoding.
        num_after_video: tokens behind this forward's last video; None if it carries none.
        visible: ``(B, cached + new)`` bool, what the layers from ``pruned_from`` on attend to; None
            if nothing is hidden from them.
        pruned_from: the first layer that ``visible`` holds for.
    """

    config: Any
    types: Sequence[str]
    masks: Mapping[str, api.MaskFunction]
    policy: Positions
    rotary: Sequence[RotaryCall]
    reduction: BatchReduction | None
    rotary_ids: torch.Tensor | None
    shift: torch.Tensor | None
    valid: torch.Tensor | None
    seen: int
    entries: int
    length: int
    video_mask: torch.Tensor | None = None
    num_after_video: int | None = None
    visible: torch.Tensor | None = None
    pruned_from: int = 0
    _built: dict[Any, Any] = field(default_factory=dict, init=False)

    # Looks tuples up by identity, which no graph may rely on.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def arguments(
        self, index: int, hidden: torch.Tensor, cache: Cache | None, call: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Replace what layer ``index`` must get differently; prepare its cache layer."""
        layer = None if cache is None else adopt_layer(cache, index)
        mask, rotary = call[api.ATTENTION_MASK], call[api.POSITION_EMBEDDINGS]
        single = self.reduction is None and hidden.shape[1] == 1 and mask is None
        if not single or self._visible(index) is not None:
            mask = self._mask(index, hidden, cache, layer)
        if layer is not None:
            gone = self.reduction.removed if self.reduction is not None else 0
            layer.prepare_update(
                Staged(
                    layer.removed + gone,
                    self.valid,
                    self.shift,
                    self.video_mask,
                    self.num_after_video,
                )
            )
        changed: dict[str, Any] = {api.ATTENTION_MASK: mask}
        if rotary is not None:
            changed[api.POSITION_EMBEDDINGS] = self._embed(hidden, rotary)
        elif self.types[index] not in api.RECURRENT:
            raise api.mismatch(f"a decoder layer {index} that rotates by itself", "cos and sin")
        if self.reduction is not None and call.get(api.POSITION_IDS) is not None:  # optional
            # FlashAttention takes gaps in these for packed sequences, and reads nothing else.
            changed[api.POSITION_IDS] = torch.arange(hidden.shape[1], device=hidden.device)[None]
        return {**call, **changed}

    def _mask(
        self, index: int, hidden: torch.Tensor, cache: Cache | None, layer: ReducedLayer | None
    ) -> Any:
        """Build the mask with the library's own factory, once per layer type."""
        kind, valid = self.types[index], self._visible(index)
        key = (kind, valid is self.valid)
        if key in self._built:
            return self._built[key]
        if kind not in self.masks:
            raise UnsupportedModelError(
                f"got a decoder layer of type {kind!r}, expected full, sliding or linear attention."
            )
        if valid is not None and layer is not None and layer.removed:
            valid = torch.cat([valid.new_ones(len(valid), layer.removed), valid], 1)
        self._built[key] = self.masks[kind](self.config, hidden, valid, cache, index)
        return self._built[key]

    def _visible(self, index: int) -> torch.Tensor | None:
        """Return what a layer may attend to; a layer without attention weights: what is there."""
        pruned = index >= self.pruned_from and self.types[index] in WEIGHTED
        return self.visible if pruned and self.visible is not None else self.valid

    def _embed(self, hidden: torch.Tensor, given: Any) -> Any:
        """Turn the cos and sin that a layer was given into those of the shorter sequence."""
        key = id(given)
        if key not in self._built:
            if self.rotary_ids is not None:
                self._built[key] = self._source(given).again(hidden, self.rotary_ids)
            elif self.reduction is None:
                self._built[key] = given
            elif self.policy == "merged":
                batch = len(self.reduction.plans)
                whole = (part.expand(batch, *part.shape[1:]) for part in given)
                self._built[key] = tuple(self.reduction.reduce(part) for part in whole)
            else:
                self._built[key] = tuple(self.reduction.gather(part) for part in given)
        return self._built[key]

    def _source(self, given: Any) -> RotaryCall:
        for call in self.rotary:
            if call.output[0] is given[0]:
                return call
        raise UnsupportedModelError(
            "got rotary embeddings that do not come from the decoder's rotary_emb, expected those. "
            "Use positions='survived'."
        )


def reassigned(
    rotary: Sequence[RotaryCall],
    rows: Rows,
    reduction: BatchReduction | None,
    shift: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Renumber the positions of a forward pass without gaps.

    Args:
        rotary: its calls of the rotary embedding, which all have the same positions.
        rows: the videos of each row.
        reduction: how it was shortened; None if only the cache holds a reduced video.
        shift: of what the cache holds.

    Returns:
        the new ids, of the same number of axes, and the shift of what comes later.
    """
    if not rotary:
        raise api.mismatch("decoder layers without rotary positions", "a call of rotary_emb")
    ids = rotary[-1].positions
    axes = ids if ids.ndim == 3 else ids[None]
    if shift is not None:
        axes = axes - shift.to(axes.device)
    if reduction is not None:
        axes = axes.expand(axes.shape[0], len(reduction.plans), axes.shape[2])
        axes, moved = reassigned_positions(axes, reduction.plans, rows)
        shift = -moved if shift is None else shift - moved
    return (axes if ids.ndim == 3 else axes[0]), shift
