"""The same reduction once more, by hand: no hooks, no cache, no padding, one dense matrix.

The decoder's layers are called one after another with masks and positions made here. The only
things taken from a run of the model are what goes into its first layer.
"""

from dataclasses import dataclass, field
from typing import Any

import torch

from sttm.methods import VideoFeatures
from sttm.methods.base import Method
from sttm.plan import MergePlan

from .families import Inputs
from .names import with_cache


@dataclass
class DecoderInputs:
    """What the text model gets for one prompt of ``N`` tokens.

    Args:
        hidden: ``(N, C)`` embeddings, image and video features included.
        ids: ``(axes, N)`` rotary positions.
        deepstack: ``(N, C)`` per layer, to be added behind it; zero outside videos and images.
    """

    hidden: torch.Tensor
    ids: torch.Tensor
    deepstack: list[torch.Tensor] = field(default_factory=list)


class _SeenEnough(Exception):  # noqa: N818  (ends a forward early, it is no error)
    pass


def decoder_inputs(model: Any, inputs: Inputs) -> DecoderInputs:
    """Run the unpatched model up to its first layer, on one row without padding."""
    seen: dict[str, Any] = {}

    def on_text(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        seen.update(kwargs)

    def on_rotary(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        seen["rotary"] = kwargs["position_ids"] if "position_ids" in kwargs else args[1]
        raise _SeenEnough

    text = model.get_decoder()
    hooks = [
        text.register_forward_pre_hook(on_text, with_kwargs=True),
        text.rotary_emb.register_forward_pre_hook(on_rotary, with_kwargs=True),
    ]
    try:
        model(**inputs.tensors, use_cache=False)
    except _SeenEnough:
        pass
    finally:
        for hook in hooks:
            hook.remove()
    hidden = seen["inputs_embeds"]
    assert hidden.shape[0] == 1
    assert bool(inputs.tensors["attention_mask"].all())
    levels = []
    for features in seen.get("deepstack_visual_embeds") or []:
        level = torch.zeros_like(hidden[0])
        level[seen["visual_pos_masks"][0]] = features
        levels.append(level)
    rotary = seen["rotary"]
    return DecoderInputs(hidden[0], rotary[0][None] if rotary.ndim == 2 else rotary[:, 0], levels)


@dataclass(frozen=True)
class Reduced:
    """A reduction of ``N`` tokens to ``L`` as a dense matrix.

    Args:
        matrix: ``(L, N)`` float32.
        kept: ``(L,)`` ascending, the anchors.
    """

    matrix: torch.Tensor
    kept: torch.Tensor

    def of(self, x: torch.Tensor) -> torch.Tensor:
        """Reduce ``(..., N, C)`` to ``(..., L, C)``; half precision is summed in float32."""
        return (self.matrix @ x.float()).to(x.dtype)


def reduction(length: int, parts: list[tuple[torch.Tensor, MergePlan]]) -> Reduced:
    """Put the plans of the videos into one matrix over the sequence."""
    rows: dict[int, torch.Tensor] = {}
    videos = {int(i) for index, _ in parts for i in index}
    for place in range(length):
        if place not in videos:
            rows[place] = torch.eye(length)[place]
    for index, plan in parts:
        for output, anchor in enumerate(plan.anchor.tolist()):
            row = torch.zeros(length)
            members = (plan.group == output).nonzero().flatten()
            row[index[members]] = plan.weight[members]
            rows[int(index[anchor])] = row
    kept = sorted(rows)
    return Reduced(torch.stack([rows[place] for place in kept]), torch.tensor(kept))


def reassigned(ids: torch.Tensor, videos: list[torch.Tensor], kept: torch.Tensor) -> torch.Tensor:
    """Renumber ``(axes, N)``: each run of video tokens counts on, what follows closes the gap."""
    new = ids.clone()
    places = {int(i) for index in videos for i in index}
    alive = set(kept.tolist())
    shift, count = 0, 0
    for place in range(ids.shape[1]):
        if place not in places:
            new[:, place] = ids[:, place] + shift
            continue
        if place - 1 not in places:
            start, count = int(ids[0, place]) + shift, 0
        new[:, place] = start + count
        count += place in alive
        if place + 1 not in places:
            shift = start + count - int(ids[0, place + 1])
    return new[:, kept]


def _rotary(text: Any, hidden: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, ...]:
    shaped = ids if ids.shape[0] == 1 else ids[:, None]
    return tuple(text.rotary_emb(hidden[None], shaped))


def _positions(
    text: Any, begin: DecoderInputs, videos: list[torch.Tensor], how: str, reduced: Reduced
) -> tuple[torch.Tensor, ...]:
    if how == "reassigned":
        return _rotary(text, begin.hidden, reassigned(begin.ids, videos, reduced.kept))
    full = _rotary(text, begin.hidden, begin.ids)
    if how == "survived":
        return tuple(part[:, reduced.kept] for part in full)
    assert how == "merged"
    return tuple(reduced.of(part) for part in full)


def _causal(hidden: torch.Tensor, window: int) -> torch.Tensor:
    """``(1, 1, L, L)`` additive mask: a token sees the ``window`` latest ones, itself included."""
    place = torch.arange(len(hidden))
    ago = place[:, None] - place
    blocked = (ago < 0) | (ago >= window)
    lowest = torch.finfo(hidden.dtype).min
    return hidden.new_zeros(blocked.shape).masked_fill(blocked, lowest)[None, None]


def _layer(
    text: Any, index: int, hidden: torch.Tensor, rotary: tuple[torch.Tensor, ...]
) -> torch.Tensor:
    kinds = getattr(text.config, "layer_types", None) or ["full_attention"] * (index + 1)
    sliding = kinds[index] == "sliding_attention"
    window = text.config.sliding_window if sliding else len(hidden)
    out: torch.Tensor = text.layers[index](
        hidden[None],
        attention_mask=None if kinds[index] == "linear_attention" else _causal(hidden, window),
        position_embeddings=rotary,
        position_ids=None,
        **with_cache(None),
    )
    return out[0]


@dataclass(frozen=True)
class HandRun:
    """Result of :func:`by_hand`.

    Args:
        logits: ``(L, vocabulary)``, one per token that is left.
        kept: ``(L,)`` the places of those tokens.
        plans: the plans of the videos.
    """

    logits: torch.Tensor
    kept: torch.Tensor
    plans: list[MergePlan]

    def tail(self, count: int) -> torch.Tensor:
        """Logits of the last ``count`` tokens."""
        return self.logits[-count:]


def by_hand(model: Any, inputs: Inputs, method: Method, layer: int, positions: str) -> HandRun:
    """Run one prompt with its videos reduced in front of ``layer``."""
    text = model.get_decoder()
    begin = decoder_inputs(model, inputs)
    hidden, places = begin.hidden, inputs.videos[0]
    rotary = _rotary(text, hidden, begin.ids)
    reduced, plans = reduction(len(hidden), []), []
    for index in range(len(text.layers)):
        if index == layer:
            plans = [method.plan(VideoFeatures(hidden[v.index], v.grid)) for v in places]
            parts = [(v.index, plan) for v, plan in zip(places, plans, strict=True)]
            reduced = reduction(len(hidden), parts)
            rotary = _positions(text, begin, [v.index for v in places], positions, reduced)
            hidden = reduced.of(hidden)
        hidden = _layer(text, index, hidden, rotary)
        if index < len(begin.deepstack):
            hidden = hidden + reduced.of(begin.deepstack[index])
    logits: torch.Tensor = model.lm_head(text.norm(hidden[None]))[0]
    return HandRun(logits, reduced.kept, plans)
