"""A model taken apart for videos that come in pieces: embeddings, and the decoder in two halves.

The halves share the decoder's layers and run its own forward, with fewer layers: those in front of
the reduction see every token, those behind it see merged ones.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from transformers import DynamicCache

from sttm.errors import UnsupportedModelError
from sttm.models import transformers_api as api
from sttm.models.adapter import Adapter, Positions, VideoSpan, noted_videos
from sttm.models.cache import adopt_layer


class PromptEmbedder:
    """A model without its decoder: gives what the decoder would be fed.

    Args:
        adapter: the model's family.

    Raises:
        UnsupportedModelError: the decoder is not where it is known to be.
    """

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter
        names = [n for n, part in adapter.base.named_children() if part is adapter.text]
        if len(names) != 1 or adapter.deepstack:
            raise _not_streamable(adapter, "whose features enter the decoder in one place")
        self._fed = api.FedEmbeddings(adapter.text)
        self._base = _shallow(adapter.base, {names[0]: self._fed})

    @property
    def has_axes(self) -> bool:
        """Whether the latest prompt's positions have axes; if not they are places."""
        return self._fed.positions is not None

    def __call__(
        self, inputs: Mapping[str, torch.Tensor], features: Any
    ) -> tuple[torch.Tensor, VideoSpan]:
        """Embed a prompt with one video in one run.

        Args:
            inputs: the model's arguments for one prompt, without pixels.
            features: what the encoder gave, with the grids noted.

        Returns:
            ``(n, C)`` embeddings, and the video's place among them.

        Raises:
            UnsupportedModelError: there is text between the frames.
        """
        videos = noted_videos(features) or []
        spans = self.adapter.spans(inputs[api.INPUT_IDS].cpu(), videos, inputs)[0]
        if len(spans) != 1 or bool((spans[0].index.diff() != 1).any()) or spans[0].video.gaps:
            raise _not_streamable(self.adapter, "whose frames follow one another without text")
        signature = api.Signature.of(self.adapter.base)
        accepted = {name: value for name, value in inputs.items() if name in signature}
        handed = api.features_argument(self.adapter.modality, features)
        return api.text_hidden(self._base(**accepted, **handed))[0], spans[0]


class SplitDecoder:
    """A decoder in two halves, with a cache of its own for each.

    Args:
        adapter: the model's family.
        layer: the first layer of the second half.
        positions: the position policy.

    Raises:
        UnsupportedModelError: layers that do not hold one entry per token, or a kind of attention
            that takes gaps between positions for the ends of prompts.
    """

    def __init__(self, adapter: Adapter, layer: int, positions: Positions) -> None:
        if set(adapter.layer_types) != {api.FULL_ATTENTION}:
            raise _not_streamable(adapter, "with full attention in all layers")
        implementation = str(adapter.text.config._attn_implementation)
        if positions == "survived" and "flash" in implementation:
            raise UnsupportedModelError(
                f"got positions='survived' with {implementation}, expected 'reassigned' for a "
                "stream: FlashAttention takes gaps for the ends of prompts. Or use sdpa."
            )
        self.adapter, self.layer = adapter, layer
        layers = list(adapter.text.layers)
        below = {"layers": layers[:layer], "norm": torch.nn.Identity()}
        self._halves = (
            _shallow(adapter.text, below),
            _shallow(adapter.text, {"layers": layers[layer:]}),
        )
        self.lower, self.upper = (DynamicCache(config=adapter.config) for _ in range(2))
        # The text model asks the first layer how much there is; the second half has only these.
        self.upper.layers[:layer] = [self.upper.layers[layer]] * layer

    def fork(self) -> "SplitDecoder":
        """Return the same with caches that grow by themselves; what they hold is shared."""
        new = copy.copy(self)
        new.lower, new.upper = copy.copy(self.lower), copy.copy(self.upper)
        new.lower.layers = [copy.copy(layer) for layer in self.lower.layers]
        new.upper.layers = [copy.copy(layer) for layer in self.upper.layers]
        new.upper.layers[: self.layer] = [new.upper.layers[self.layer]] * self.layer
        return new

    def feed_lower(self, hidden: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Feed tokens ``(n, C)`` at ``(axes, n)`` positions to the layers below the reduction."""
        if not self.layer:
            return hidden
        return self._feed(self._halves[0], self.lower, hidden, positions)

    def feed_upper(self, hidden: torch.Tensor, positions: torch.Tensor) -> None:
        """Feed what is left of them to the layers behind it."""
        if len(hidden):
            self._feed(self._halves[1], self.upper, hidden, positions)

    def forget_upper(self, kept: int) -> None:
        """Forget all but the first ``kept`` entries of the layers behind the reduction."""
        for layer in self.upper.layers[self.layer :]:
            if layer.get_seq_length() > kept:
                layer.crop(kept - layer.get_seq_length())

    def whole(self, removed: int, num_after_video: int, shift: torch.Tensor | None) -> Any:
        """Return one cache of both halves, as a reduced prefill of all tokens leaves it.

        Args:
            removed: tokens that the layers behind the reduction were not given.
            num_after_video: tokens behind the video.
            shift: see `Staged`.
        """
        cache = copy.copy(self.upper)
        cache.layers = [copy.copy(layer) for layer in self.upper.layers]
        cache.layers[: self.layer] = [copy.copy(x) for x in self.lower.layers[: self.layer]]
        for index in range(len(cache.layers)):
            layer = adopt_layer(cache, index)
            assert layer is not None
            if index >= self.layer:
                layer.active, layer.removed, layer.shift = True, removed, shift
            layer.protect(num_after_video)
        return cache

    def _feed(
        self, half: Any, cache: Any, hidden: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        seen = cache.get_seq_length() + len(hidden)
        output = half(
            **{
                api.INPUTS_EMBEDS: hidden[None],
                api.ATTENTION_MASK: hidden.new_ones(1, seen, dtype=torch.long),
                api.POSITION_IDS: (positions if len(positions) == 1 else positions[:, None]).to(
                    hidden.device
                ),
                "use_cache": True,
            },
            **api.cache_argument(self.adapter.text, cache),
        )
        return api.text_hidden(output)[0]


def _shallow(module: torch.nn.Module, parts: Mapping[str, Any]) -> Any:
    """Copy a module so that it shares all of its parts but these."""
    new = copy.copy(module)
    new._modules = dict(module._modules)
    for name, part in parts.items():
        new._modules[name] = torch.nn.ModuleList(part) if isinstance(part, list) else part
    return new


def _not_streamable(adapter: Adapter, expected: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"got {type(adapter.model).__name__} for a stream, expected a model {expected}, such as "
        "LLaVA-OneVision or Qwen2.5-VL. Use VideoChat.watch() on the recorded video."
    )
