"""A model taken apart for videos that come in pieces: embeddings, and the decoder in two halves.

The halves share the decoder's layers and run its own forward, with fewer layers: those in front of
the reduction see every token, those behind it see merged ones.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import DynamicCache

from sttm.errors import UnsupportedModelError
from sttm.models import transformers_api as api
from sttm.models.adapter import Adapter, Positions, VideoLayout, VideoSpan, noted_videos
from sttm.models.cache import adopt_layer


@dataclass(frozen=True, eq=False)
class FedTokens:
    """Some tokens on their way through the decoder.

    Args:
        hidden: ``(n, C)``.
        is_video: ``(n,)`` bool.
        levels: ``(m, C)`` DeepStack features of its ``m`` video tokens, for each level.
    """

    hidden: torch.Tensor
    is_video: torch.Tensor
    levels: tuple[torch.Tensor, ...] = ()

    def deepstack(self) -> dict[str, Any]:
        """Return the levels as arguments of the decoder; nothing if there are none."""
        if not self.levels or not bool(self.is_video.any()):
            return {}
        mask = self.is_video[None].to(self.hidden.device)
        return {api.VISUAL_MASK: mask, api.DEEPSTACK: list(self.levels)}


@dataclass(frozen=True, eq=False)
class EmbeddedPrompt:
    """A prompt with one video, as its decoder is fed.

    Args:
        embeddings: ``(n, C)``.
        span: the video's place.
        block: tokens of a time step, with the newline tokens between and behind its rows.
        levels: ``(tokens, C)`` DeepStack features of the video, for each level.
    """

    embeddings: torch.Tensor
    span: VideoSpan
    block: int
    levels: tuple[torch.Tensor, ...]

    @property
    def end(self) -> int:
        """The first token behind the video's last block."""
        return int(self.span.index[-self.span.video.grid.tokens_per_frame]) + self.block

    def blocks(self) -> torch.Tensor:
        """Return ``(steps, block, C)`` embeddings of each time step."""
        first = self.span.index[:: self.span.video.grid.tokens_per_frame]
        return self.embeddings[first[:, None] + torch.arange(self.block)]


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
        if len(names) != 1 or adapter.not_streamable:
            raise _not_streamable(
                adapter, adapter.not_streamable or "its decoder is none of its parts"
            )
        self._fed = api.FedEmbeddings(adapter.text)
        self._base = _shallow(adapter.base, {names[0]: self._fed})

    @property
    def has_axes(self) -> bool:
        """Whether the latest prompt's positions have axes; if not they are places."""
        return self._fed.positions is not None

    def __call__(self, inputs: Mapping[str, torch.Tensor], features: Any) -> EmbeddedPrompt:
        """Embed a prompt with one video.

        Args:
            inputs: the model's arguments for one prompt, without pixels.
            features: what the encoder gave, with the grids noted.

        Raises:
            IncompatibleTransformersError: DeepStack features that belong to other tokens.
        """
        span, block = self._span(inputs, (noted_videos(features) or [])[0])
        signature = api.Signature.of(self.adapter.base)
        accepted = {name: value for name, value in inputs.items() if name in signature}
        handed = api.features_argument(self.adapter.modality, features)
        embeddings, fed = api.text_hidden(self._base(**accepted, **handed))[0], self._fed
        visual = None if fed.visual is None else fed.visual[0].nonzero().squeeze(1).cpu()
        if fed.deepstack and (visual is None or not torch.equal(visual, span.index)):
            raise api.mismatch("DeepStack features of other tokens", "those of the video's")
        return EmbeddedPrompt(embeddings, span, block, tuple(fed.deepstack))

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """Embed text: ``(n,)`` ids to ``(n, C)``."""
        embed = self.adapter.text.get_input_embeddings()
        found: torch.Tensor = embed(ids.to(embed.weight.device))
        return found

    def _span(
        self, inputs: Mapping[str, torch.Tensor], video: VideoLayout
    ) -> tuple[VideoSpan, int]:
        """Find the video, and count the tokens of one of its steps, newlines included."""
        ids, adapter, grid = inputs[api.INPUT_IDS].cpu(), self.adapter, video.grid
        found = adapter.spans(ids, [video], inputs)[0]
        if not found:  # a single image is a video's first frame here
            places = adapter.placeholders(ids)[0].nonzero().squeeze(1)
            found = [VideoSpan(places, video)]
        one, two = (adapter.newlines(replace(grid, frames=n)) for n in (1, 2))
        return found[0], grid.tokens_per_frame + two - one


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
            kinds = ", ".join(sorted(set(adapter.layer_types) - {api.FULL_ATTENTION}))
            raise _not_streamable(adapter, f"some of its layers have {kinds}, not full attention")
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

    def feed_lower(self, tokens: FedTokens, positions: torch.Tensor) -> FedTokens:
        """Feed tokens to the layers below the reduction.

        Args:
            tokens: with all levels of DeepStack.
            positions: ``(axes, n)`` int64.

        Returns:
            what the layers behind it are to be fed, with the levels that are added there.
        """
        if not self.layer or not len(tokens.hidden):
            return tokens
        below = replace(tokens, levels=tokens.levels[: self.layer])
        hidden = self._feed(self._halves[0], self.lower, below, positions)
        return replace(tokens, hidden=hidden, levels=tokens.levels[self.layer :])

    def feed_upper(self, tokens: FedTokens, positions: torch.Tensor) -> None:
        """Feed what is left of them to the layers behind it."""
        if len(tokens.hidden):
            self._feed(self._halves[1], self.upper, tokens, positions)

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
        self, half: Any, cache: Any, tokens: FedTokens, positions: torch.Tensor
    ) -> torch.Tensor:
        hidden = tokens.hidden
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
            **tokens.deepstack(),
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


def _not_streamable(adapter: Adapter, why: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"got {type(adapter.model).__name__} for a stream, expected a model whose prompt can grow: "
        f"{why}. Use VideoChat.watch() on the recorded video."
    )
