"""Prefill once, ask later: the way a chat uses the KV cache."""

import copy
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from .families import Inputs
from .names import cache_of, with_cache
from .running import Answer


@dataclass(frozen=True)
class Prefix:
    """A prompt that is in the cache.

    Args:
        ids: ``(B, N)``.
        mask: ``(B, N)`` 1 for real tokens.
        positions: ``(B, N)`` or ``(axes, B, N)`` rotary positions the model gave them.
        cache: the cache.
        logits: ``(B, vocabulary)`` behind the last token.
    """

    ids: torch.Tensor
    mask: torch.Tensor
    positions: torch.Tensor
    cache: Any
    logits: torch.Tensor

    def copy(self) -> "Prefix":
        """Return it with a cache of its own."""
        cache = copy.deepcopy(self.cache)
        return Prefix(self.ids, self.mask, self.positions, cache, self.logits)

    def cut(self, length: int) -> "Prefix":
        """Return the first ``length`` tokens; the cache must have been cropped to them."""
        return Prefix(
            self.ids[:, :length],
            self.mask[:, :length],
            self.positions[..., :length],
            self.cache,
            self.logits,
        )

    def repeated(self, times: int) -> "Prefix":
        """Return every row ``times`` times, cache included (repeated in place)."""
        self.cache.batch_repeat_interleave(times)
        axis = self.positions.ndim - 2
        return Prefix(
            self.ids.repeat_interleave(times, 0),
            self.mask.repeat_interleave(times, 0),
            self.positions.repeat_interleave(times, axis),
            self.cache,
            self.logits.repeat_interleave(times, 0),
        )


def new_cache(model: Any) -> Any:
    """Return an empty cache for ``model``."""
    return DynamicCache(config=model.config.get_text_config())


def rotary_positions(model: Any, inputs: Inputs) -> torch.Tensor:
    """Positions that the model itself gives to a prompt."""
    return prefill(model, inputs, None).positions


def prefill(model: Any, inputs: Inputs, cache: Any, **more: Any) -> Prefix:
    """Run a prompt into ``cache``; without a cache only to see its positions."""
    seen: list[torch.Tensor] = []

    def look(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        seen.append(kwargs["position_ids"] if "position_ids" in kwargs else args[1])

    hook = model.get_decoder().rotary_emb.register_forward_pre_hook(look, with_kwargs=True)
    try:
        out = model(**{**inputs.tensors, **more}, **with_cache(cache), use_cache=cache is not None)
    finally:
        hook.remove()
    rows = inputs.tensors["input_ids"].shape[0]
    positions = seen[0]
    if positions.ndim == 2:
        positions = positions.expand(rows, -1)
    mask = inputs.tensors["attention_mask"]
    return Prefix(inputs.tensors["input_ids"], mask, positions, cache, out.logits[:, -1])


def ask(model: Any, prefix: Prefix, question: torch.Tensor, steps: int = 5) -> Answer:
    """Decode greedily behind ``question`` ``(B, n)``; the prefix's cache grows."""
    count = question.shape[1]
    last = prefix.positions[..., -1:]
    positions = torch.cat([prefix.positions, last + 1 + torch.arange(count)], -1)
    out = model.generate(
        input_ids=torch.cat([prefix.ids, question], 1),
        attention_mask=torch.cat([prefix.mask, torch.ones_like(question)], 1),
        position_ids=positions,
        **with_cache(prefix.cache),
        do_sample=False,
        max_new_tokens=steps,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return Answer(out.sequences[:, -steps:], torch.stack(out.logits, 1), cache_of(out))
