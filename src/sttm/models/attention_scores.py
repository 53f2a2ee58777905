"""Attention that methods read, recomputed from queries and keys.

Nothing asks the model for its weights: they do not exist under sdpa or FlashAttention, and under
eager attention they would be of the size ``tokens * tokens``. Two facts are measured: how much the
prompt's last token attends to every token in one decoder layer, and how much attention every patch
receives in one layer of the vision tower.
"""

import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from sttm.errors import UnreducedVideoError, UnsupportedModelError
from sttm.grid import VideoGrid
from sttm.models.transformers_api import (
    CHUNK_LENGTHS,
    POSITION_EMBEDDINGS,
    Signature,
    mismatch,
)

# Most attention weights that exist at once, of one frame.
_PIECE = 2**24
_ROTATE = "apply_rotary_pos_emb"
_ROTATE_PATCHES = "apply_rotary_pos_emb_vision"
Heads = tuple[torch.Tensor, torch.Tensor]


def attention_problem(layer: Any) -> str:
    """Say why the attention of a decoder layer cannot be recomputed; empty if it can."""
    attention = getattr(layer, "self_attn", None)
    names = ("q_proj", "k_proj", "head_dim", "scaling", "num_key_value_groups")
    missing = [name for name in names if not hasattr(attention, name)]
    if not hasattr(layer, "input_layernorm"):
        missing.append("input_layernorm")
    if missing:
        return f"{type(layer).__name__} has no {', '.join(missing)}"
    if _rotary_function(attention, _ROTATE) is None:
        return f"{type(attention).__module__} has no {_ROTATE}"
    return ""


def _rotary_function(attention: Any, name: str) -> Any:
    """Find the function that the model's own file rotates queries and keys with."""
    return getattr(sys.modules.get(type(attention).__module__), name, None)


@dataclass(frozen=True, eq=False)
class Past:
    """What the cache holds in front of this forward's tokens.

    Args:
        keys: ``(B, heads, P, D)``, rotated.
        valid: ``(B, P)`` bool, False for padding; None if there is none.
    """

    keys: torch.Tensor
    valid: torch.Tensor | None

    @classmethod
    def of(cls, cache: Any, index: int, count: int, valid: torch.Tensor | None) -> "Past | None":
        """Read layer ``index`` of a cache that holds ``count`` entries per row.

        Raises:
            UnsupportedModelError: a static cache with a sliding window, whose order is lost.
        """
        if cache is None or not count:
            return None
        layer = cache.layers[index]
        if layer.is_compileable and layer.is_sliding:
            raise UnsupportedModelError(
                "got a static sliding-window cache that is not empty, expected an empty or a "
                "dynamic one: a method reads the attention over it. Use DynamicCache."
            )
        keys = layer.keys[:, :, :count]
        return cls(keys, None if valid is None else valid[:, valid.shape[1] - keys.shape[2] :])


@torch.no_grad()
def last_token_attention(
    layer: Any,
    hidden: torch.Tensor,
    rotary: Heads | None,
    *,
    valid: torch.Tensor | None = None,
    past: Past | None = None,
    window: int | None = None,
) -> torch.Tensor:
    """Return the attention of every row's last real token, mean over heads.

    Args:
        layer: a decoder layer.
        hidden: ``(B, N, C)``, its input.
        rotary: the cos and sin it was given, ``(B or 1, N, D)``; None if it does not rotate.
        valid: ``(B, N)`` bool, False for padding; None if there is none.
        past: what the cache holds.
        window: tokens that a sliding-window layer looks back, itself included.

    Returns:
        ``(B, P + N)`` float32, a softmax over all visible tokens, those of the past first.
    """
    attention, (batch, length) = layer.self_attn, hidden.shape[:2]
    place = torch.arange(length, device=hidden.device)
    real = hidden.new_ones(batch, length, dtype=torch.bool) if valid is None else valid
    last = torch.where(real.to(place.device), place, 0).amax(1)
    normed = layer.input_layernorm(hidden)
    query, key = _queries_and_keys(attention, normed, rotary, last)
    visible = real.to(place.device) & (place <= last[:, None])
    if past is not None:
        key = torch.cat([past.keys.to(key), key], 2)
        before = visible.new_ones(batch, past.keys.shape[2]) if past.valid is None else past.valid
        visible = torch.cat([before.to(place.device), visible], 1)
    if window is not None:
        at = torch.arange(visible.shape[1], device=place.device)
        visible = visible & (at > (last + visible.shape[1] - length - window)[:, None])
    score = (query.float() @ key.float().mT) * attention.scaling
    score = score.masked_fill(~visible[:, None, None], -torch.inf)
    weight: torch.Tensor = score.softmax(-1).mean((1, 2))
    return weight


def _queries_and_keys(
    attention: Any, hidden: torch.Tensor, rotary: Heads | None, last: torch.Tensor
) -> Heads:
    """Return the last tokens' queries ``(B, heads, groups, D)`` and all keys ``(B, heads, N, D)``.

    A projection that is wider than its heads holds a gate behind each head's query.
    """
    size, groups = attention.head_dim, attention.num_key_value_groups
    row = torch.arange(len(hidden), device=hidden.device)
    key = attention.k_proj(hidden).unflatten(-1, (-1, size))
    heads = key.shape[2] * groups
    query = attention.q_proj(hidden[row, last][:, None]).unflatten(-1, (heads, -1))[..., :size]
    if getattr(attention, "q_norm", None) is not None:  # only some families normalise
        query, key = attention.q_norm(query), attention.k_norm(key)
    query, key = query.transpose(1, 2), key.transpose(1, 2)
    if rotary is not None:
        rotate = _rotary_function(attention, _ROTATE)
        cos, sin = (part.expand(len(hidden), *part.shape[1:]) for part in rotary)
        key = rotate(key[:, :1], key, cos, sin)[1]
        query = rotate(query, query[:, :1], cos[row, last][:, None], sin[row, last][:, None])[0]
    return query.reshape(len(hidden), -1, groups, size), key


@dataclass(frozen=True)
class Tower:
    """Where a family's vision tower shows its attention.

    Args:
        attention: the attention module of the last tower layer whose output is used.
        received: callable(hidden, call). ``hidden`` is the module's input, ``(patches, C)`` or
            ``(frames, patches, C)``; ``call`` holds all its arguments by name. Returns the
            attention that each patch receives, summed over queries: ``(patches,)`` or
            ``(frames, patches)`` float32.
        pool: callable(received, call). ``call`` holds the encoder's arguments by name. Returns one
            value per token, ``(tokens,)``, in the order of the features.
    """

    attention: Any
    received: Callable[[torch.Tensor, Mapping[str, Any]], torch.Tensor]
    pool: Callable[[torch.Tensor, Mapping[str, Any]], torch.Tensor]


class _Recording(threading.local):
    """What one thread has measured; ``received`` is None while it does not measure."""

    received: list[torch.Tensor] | None = None
    done: Sequence[torch.Tensor] = ()

    def __reduce__(self) -> Any:
        return type(self), ()


class TowerRecorder:
    """Measures a tower's attention while videos are encoded, and at no other time.

    Args:
        tower: the family's tower.
    """

    def __init__(self, tower: Tower) -> None:
        self.tower = tower
        self._signature = Signature.of(tower.attention)
        self._thread = _Recording()

    @torch.no_grad()
    def hook(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """In front of the attention module: measure. A forward pre-hook."""
        if self._thread.received is not None:
            call = self._signature.bind(args, kwargs)
            hidden = self._signature.given(call, self._signature.names[0])
            self._thread.received.append(self.tower.received(hidden, call))

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Measure what is encoded inside the block."""
        self._thread.received, self._thread.done = [], ()
        try:
            yield
        finally:
            self._thread.done, self._thread.received = self._thread.received, None

    @torch.no_grad()
    def per_video(
        self, grids: Sequence[VideoGrid], arguments: Mapping[str, Any]
    ) -> list[torch.Tensor]:
        """Return ``(N,)`` float32 for each video encoded last, summing to 1 per frame.

        Raises:
            UnreducedVideoError: nothing was measured.
        """
        received, self._thread.done = self._thread.done, ()
        if not received:
            raise UnreducedVideoError(
                "a video was encoded without its attention being measured. If the vision tower "
                "was compiled before attach(), compile it again."
            )
        tokens = self.tower.pool(torch.cat(list(received)), arguments).float()
        parts = torch.split(tokens, [grid.num_tokens for grid in grids])
        frames = [part.view(grid.frames, -1) for part, grid in zip(parts, grids)]
        return [frame.div(frame.sum(1, keepdim=True)).flatten() for frame in frames]


def received(blocks: Iterable[Heads], scale: float) -> torch.Tensor:
    """Sum, over queries, the attention that every key receives; mean over heads.

    Args:
        blocks: queries ``(Q, heads, D)`` and keys ``(P, heads, D)`` that see each other, e.g. of
            one frame. One block's weights exist at a time, and of a large one only a part.
        scale: factor of the scores.

    Returns:
        ``(sum of P,)`` float32.
    """
    totals = []
    for query, key in blocks:
        rows = max(1, _PIECE // (key.shape[0] * key.shape[1]))
        keys = key.transpose(0, 1).float()
        total = keys.new_zeros(key.shape[0])
        for piece in torch.split(query.transpose(0, 1).float(), rows, 1):
            total += (piece @ keys.mT * scale).softmax(-1).sum(1).mean(0)
        totals.append(total)
    return torch.cat(totals)


def received_in_frames(attention: Any, hidden: torch.Tensor, class_token: bool) -> torch.Tensor:
    """Measure an attention with separate projections over equal frames (SigLIP, CLIP).

    Args:
        attention: the module.
        hidden: ``(frames, patches, C)``, its input.
        class_token: the first patch is a class token: only its attention counts, and it is left
            out itself. Without one, the attention of all patches counts.

    Returns:
        ``(frames, patches)`` float32.
    """
    shape = (-1, attention.head_dim)
    query = attention.q_proj(hidden).unflatten(-1, shape)
    key = attention.k_proj(hidden).unflatten(-1, shape)
    first = int(class_token)
    if class_token:
        query = query[:, :1]
    return received(zip(query, key), attention.scale).view(hidden.shape[:2])[:, first:]


def received_in_chunks(
    attention: Any, hidden: torch.Tensor, call: Mapping[str, Any]
) -> torch.Tensor:
    """Measure an attention with one projection over packed chunks (Qwen-VL).

    Args:
        attention: the module.
        hidden: ``(patches, C)``, its input.
        call: its arguments by name.

    Returns:
        ``(patches,)`` float32, in the tower's order.

    Raises:
        IncompatibleTransformersError: it is not told the positions or the chunks, or its file
            cannot rotate them.
    """
    signature = Signature.of(attention)
    positions = signature.given(call, POSITION_EMBEDDINGS)
    lengths = signature.given(call, CHUNK_LENGTHS).diff().tolist()
    projected = attention.qkv(hidden).unflatten(-1, (3, attention.num_heads, -1))
    query, key = projected[:, 0], projected[:, 1]
    rotate = _rotary_function(attention, _ROTATE_PATCHES)
    if rotate is None:
        raise mismatch(f"{type(attention).__module__} without it", f"{_ROTATE_PATCHES}()")
    query, key = rotate(query, key, *positions)
    return received(zip(query.split(lengths), key.split(lengths)), attention.scaling)
