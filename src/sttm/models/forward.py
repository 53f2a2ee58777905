"""One forward pass through a model whose videos are reduced: what happens where."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from transformers.cache_utils import Cache

from sttm.errors import UnreducedVideoError
from sttm.models import transformers_api as api
from sttm.models.adapter import Adapter, VideoLayout
from sttm.models.configuration import ReductionConfig
from sttm.models.contract import Signatures, check_counts
from sttm.models.inputs import RotaryCall, ShortInputs
from sttm.models.prompt import (
    Prompt,
    count_cached,
    find_videos,
    refuse_bare_placeholders,
    split_deepstack,
)
from sttm.models.pruning import seen_entries, video_attention
from sttm.models.report import VideoReport
from sttm.models.shortening import (
    PromptScores,
    kept_layer,
    refuse_unsupported,
    score_prompt,
    shorten,
)


class ForwardPass:
    """One call of the model, from its first hook to its last.

    In front of the text model the prompt is read (``prompt``); in front of layer ``config.layer``
    the sequence is shortened (``short``); every layer from there on gets other arguments; behind
    the text model the counts are checked and the output gets its original length.

    Args:
        adapter: the model's family.
        config: how its videos are reduced.
        signatures: of what is hooked.
        arguments: the call's arguments by name; None if it entered at the text model.
        waiting: whether a video was encoded that no forward pass has been given yet.

    Attributes:
        videos: what the encoder gave during this call; None if it did not run.
        prompt: what the call carries; None until the text model is entered.
        short: what the layers behind the reduction get; None if there is nothing to change.
        reports: what was done to each video.
    """

    def __init__(
        self,
        adapter: Adapter,
        config: ReductionConfig,
        signatures: Signatures,
        arguments: Mapping[str, Any] | None,
        waiting: bool,
    ) -> None:
        self.adapter = adapter
        self.config = config
        self.text_only = arguments is None
        self.videos: Sequence[VideoLayout] | None = None
        self.prompt: Prompt | None = None
        self.short: ShortInputs | None = None
        self.reports: list[VideoReport] = []
        self._signatures = signatures
        self._arguments = arguments or {}
        self._waiting = waiting
        self._cache: Cache | None = None
        self._entered: list[int] = []
        self._rotary: list[RotaryCall] = []
        self._scores: PromptScores | None = None

    def enter_text(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """In front of the text model: read the prompt, hold back DeepStack of the layers above."""
        signature = self._signatures.text
        call = signature.bind(args, kwargs)
        if self.text_only:
            self._refuse_embeddings(call)
            mask = call.get(api.ATTENTION_MASK)  # optional for whoever calls it directly
        else:
            mask = signature.given(call, api.ATTENTION_MASK)
        self._cache = api.cache_in(call.values())
        seen, past = count_cached(self._cache)
        rows = find_videos(self.adapter, self.config, self._arguments, self.videos)
        if rows is None and not self.text_only:
            refuse_bare_placeholders(
                self.adapter, self._arguments, seen=seen, waiting=self._waiting
            )
        if not rows or not any(rows):
            self.prompt = Prompt((), None, seen, past, mask)
            return None
        length = self._arguments[api.INPUT_IDS].shape[1]
        self.prompt = Prompt(rows, length, seen, past, mask)
        self.prompt.check_length(signature.given(call, api.INPUTS_EMBEDS))
        if not self.adapter.deepstack:
            return None
        visual, levels, call = split_deepstack(self.adapter, signature, call, self.config.layer)
        self.prompt = replace(self.prompt, visual=visual, deepstack=levels)
        return (), call

    def record_rotary(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        """Behind the rotary embedding: remember which positions gave which cos and sin."""
        signature = self._signatures.rotary
        self._rotary.append(RotaryCall(module, signature.bind(args, kwargs), signature, output))

    def enter_layer(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """In front of a decoder layer: hand those from the reduction on shortened inputs."""
        config, prompt = self.config, self.prompt
        if index < config.layer and index != config.prompt_score_layer:
            return None
        if prompt is None:
            raise self.past_text()
        signature = self._signatures.layers[index]
        call = signature.bind(args, kwargs)
        hidden = signature.given(call, signature.names[0])
        cache = self._layer_cache(index, call)
        for name in (api.ATTENTION_MASK, api.POSITION_EMBEDDINGS):
            signature.given(call, name)
        if index == config.prompt_score_layer and prompt.rows:
            refuse_unsupported(self.adapter, prompt, cache, call)
            embeddings = call[api.POSITION_EMBEDDINGS]
            self._scores = score_prompt(
                self.adapter, config, prompt, index, hidden, cache, embeddings
            )
        self._entered.append(index)
        if index < config.layer:
            return None
        if index == config.layer:
            hidden = self._shorten(prompt, hidden, cache, call)
        elif index - 1 in prompt.deepstack:
            hidden = self._inject(prompt, index - 1, hidden)
        if self.short is None:
            return None
        call = self.short.arguments(index, hidden, cache, call)
        if index == config.decode_score_layer and not prompt.rows and hidden.shape[1] == 1:
            self.short = self._prune(self.short, index, hidden, cache, call)
        del call[signature.names[0]]
        return (hidden,), call

    def leave_text(self, output: Any) -> Any:
        """Behind the text model: check what happened, and give the output its original length.

        Raises:
            IncompatibleTransformersError: the layers or their cache hold something else than the
                plan says.
        """
        if self.short is None:
            return None
        self._check(self.short, output)
        reduction = self.short.reduction
        if reduction is None:
            return None
        return api.with_text_hidden(output, reduction.restore(api.text_hidden(output)))

    def leave_model(self) -> None:
        """Behind the model: check that no video went through unreduced.

        Raises:
            IncompatibleTransformersError: the text model was called past its hooks.
            UnreducedVideoError: the reduction's layer was.
        """
        if self.prompt is None:
            raise self.past_text()
        if self.prompt.rows and self.short is None:
            raise UnreducedVideoError(
                f"a video passed layer {self.config.layer} unreduced. If the model was compiled "
                "before attach(), compile it again, or detach to run without reduction."
            )

    def past_text(self) -> Exception:
        """Build the error for a text model whose hooks did not run."""
        base, text = type(self.adapter.base).__name__, type(self.adapter.text).__name__
        return api.mismatch(
            f"a {base} that calls {text} past its hooks", f"a call of {text} itself"
        )

    def _shorten(
        self, prompt: Prompt, hidden: torch.Tensor, cache: Cache | None, call: Mapping[str, Any]
    ) -> torch.Tensor:
        """At the reduction's layer: return the shorter sequence, and keep what follows from it."""
        prompt.check_length(hidden)
        kept = kept_layer(cache, self.config.layer)
        if not prompt.rows and kept is None:
            return hidden
        refuse_unsupported(self.adapter, prompt, cache, call)
        hidden, self.short, self.reports = shorten(
            self.adapter,
            self.config,
            self._signatures.masks,
            prompt,
            hidden,
            cache,
            kept,
            self._rotary,
            self._scores,
        )
        return hidden

    def _inject(self, prompt: Prompt, level: int, hidden: torch.Tensor) -> torch.Tensor:
        """Add a DeepStack level, merged like the tokens it belongs to."""
        if self.short is None or self.short.reduction is None or prompt.visual is None:
            return hidden
        full = hidden.new_zeros(*prompt.visual.shape, hidden.shape[-1])
        full[prompt.visual.to(hidden.device)] = prompt.deepstack[level].to(hidden)
        return hidden + self.short.reduction.reduce(full)

    def _prune(
        self,
        short: ShortInputs,
        index: int,
        hidden: torch.Tensor,
        cache: Cache | None,
        call: Mapping[str, Any],
    ) -> ShortInputs:
        """While decoding: ask layer ``index`` what the layers above it need to see."""
        pruning = self.config.method.decode_pruning
        assert pruning is not None
        assert cache is not None
        assert short.video_mask is not None
        held: Any = cache.layers[index]
        attention = video_attention(
            self.adapter.text.layers[index],
            hidden,
            call[api.POSITION_EMBEDDINGS],
            held,
            valid=short.valid,
            video=short.video_mask,
        )
        visible = seen_entries(
            attention, held.attended, pruning, valid=short.valid, video=short.video_mask
        )
        held.remember(attention)
        return replace(short, visible=visible, pruned_from=pruning.layer)

    def _check(self, short: ShortInputs, output: Any) -> None:
        """Compare what the decoder did with what it was to do."""
        first, layers = self.config.layer, len(self.adapter.layer_types)
        entered = [index for index in self._entered if index >= first]
        if entered != list(range(first, layers)):
            raise api.mismatch(
                f"a forward pass through the decoder layers {entered} from layer {first} on",
                f"each from {first} to {layers - 1}, in order",
            )
        returned, given = api.cache_of(output), api.text_hidden(output).shape[1]
        if given != short.length:
            raise api.mismatch(f"{given} tokens behind the last decoder layer", f"{short.length}")
        if returned is not None and returned is not self._cache:
            raise api.mismatch("a model that returns another cache than it wrote to", "the same")
        if self._cache is not None:
            check_counts(
                self.adapter,
                self._cache,
                first=first,
                seen=short.seen,
                held=short.entries,
                exact=short.reduction is not None,
            )

    def _layer_cache(self, index: int, call: Mapping[str, Any]) -> Cache | None:
        """Return the cache that a layer was given: the same for the text model and all layers."""
        cache = api.cache_in(call.values())
        if self._cache is None and not self._entered:
            self._cache = cache  # the text model has just made it, or there is none
        if cache is not self._cache:
            raise api.mismatch(f"a decoder layer {index} that is not given the cache", "it")
        return cache

    def _refuse_embeddings(self, call: Mapping[str, Any]) -> None:
        """Refuse embeddings that reach the text model past the model: a video may be in them."""
        if call.get(api.INPUTS_EMBEDS) is not None:  # optional: ids are text
            raise UnreducedVideoError(
                f"got {api.INPUTS_EMBEDS} at {type(self.adapter.text).__name__}, past "
                f"{type(self.adapter.base).__name__}'s hooks, where videos in them cannot be seen. "
                "Call the model itself (not its forward()), or detach."
            )
