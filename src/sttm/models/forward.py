"""One forward pass through an attached model: what is known, and what is done where."""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

import torch
from transformers.cache_utils import Cache

from sttm.errors import ConfigError, UnreducedVideoError, UnsupportedModelError
from sttm.grid import VideoGrid
from sttm.methods.base import DecodePruning, Evidence, Method, needs_of
from sttm.models import transformers_api as api
from sttm.models.adapter import Adapter, Positions, VideoLayout, VideoSpan
from sttm.models.cache import ReducedLayer, adopt_layer, reduced_layers
from sttm.models.contract import Signatures, check_counts
from sttm.models.evidence import Past, last_token_attention
from sttm.models.inputs import LayerInputs, RotaryCall, split_padding
from sttm.models.pruning import seen_entries, video_entries
from sttm.models.reduction import BatchReduction, VideoTokens, plan_videos, sequence_plan
from sttm.models.report import VideoReport
from sttm.plan import MergePlan


class Settings(Protocol):
    """What a forward pass reads from its attachment."""

    method: Method
    layer: int
    positions: Positions
    signatures: Signatures
    reports: list[VideoReport]
    observed_layer: int | None
    """The decoder layer whose attention the method needs; None if it needs none."""
    decode_pruning: DecodePruning | None
    asked_layer: int | None
    """The decoder layer that decides on ``decode_pruning``."""


class ForwardPass:
    """State of one call of the model, from its first hook to its last.

    Args:
        adapter: the model's family.
        settings: the attachment.
        arguments: the call's arguments by name; None if it entered at the text model.
        waiting: whether a video was encoded that no forward pass has been given yet.

    Attributes:
        videos: what the encoder gave during this call.
        rows: the videos of each row; empty if the call carries none.
        reduction: how the sequence was shortened, once it was.
        reached_text: whether the text model was entered.
    """

    def __init__(
        self,
        adapter: Adapter,
        settings: Settings,
        arguments: Mapping[str, Any] | None,
        waiting: bool,
    ) -> None:
        self.adapter = adapter
        self.settings = settings
        self.text_only = arguments is None
        self.videos: list[VideoLayout] | None = None
        self.rows: list[list[VideoSpan]] = []
        self.reduction: BatchReduction | None = None
        self.reached_text = False
        self._arguments = arguments or {}
        self._waiting = waiting
        self._padding: Any = None
        self._cache: Cache | None = None
        self._past = 0
        self._seen = 0
        self._held = 0
        self._length = 0
        self._entered: list[int] = []
        self._rotary: list[RotaryCall] = []
        self._deepstack: dict[int, torch.Tensor] = {}
        self._visual: torch.Tensor | None = None
        self._inputs: LayerInputs | None = None
        self._attention: torch.Tensor | None = None
        self._seconds = 0.0
        self._made: list[VideoReport] = []

    def enter_text(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """In front of the text model: find the videos, hold back DeepStack of the layers above."""
        signature = self.settings.signatures.text
        call = signature.bind(args, kwargs)
        self.reached_text = True
        if self.text_only:
            self._refuse_embeddings(call)
            self._padding = call.get(api.ATTENTION_MASK)  # optional for whoever calls it directly
        else:
            self._padding = signature.given(call, api.ATTENTION_MASK)
        self._cache = api.cache_in(call.values())
        self._seen, self._past = _counts(self._cache)
        self.rows = self._find_videos()
        if self.rows:
            self._check_length(signature.given(call, api.INPUTS_EMBEDS))
        if not self.rows or not self.adapter.deepstack:
            return None
        self._visual = signature.given(call, api.VISUAL_MASK)
        embeds = signature.given(call, api.DEEPSTACK)
        if embeds is None or self._visual is None:
            raise api.mismatch(f"a video without {api.DEEPSTACK}", "features for the first layers")
        layer = self.settings.layer
        if len(embeds) >= len(module.layers):
            raise UnsupportedModelError(
                f"got {len(embeds)} DeepStack levels for {len(module.layers)} decoder layers, "
                "expected fewer levels than layers."
            )
        self._deepstack = {i: embeds[i] for i in range(layer, len(embeds))}
        return (), {**call, api.DEEPSTACK: embeds[:layer]}

    def record_rotary(self, module: Any, args: Any, kwargs: Any, output: Any) -> None:
        """Behind the rotary embedding: remember which positions gave which cos and sin."""
        call = self.settings.signatures.rotary.bind(args, kwargs)
        self._rotary.append(RotaryCall(module, call, self.settings.signatures.rotary, output))

    def enter_layer(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """In front of a decoder layer: hand those from the reduction on shortened inputs."""
        if not self.reached_text:
            raise self.past_text()
        signature = self.settings.signatures.layers[index]
        call = signature.bind(args, kwargs)
        hidden = signature.given(call, signature.names[0])
        cache = self._layer_cache(index, call)
        for name in (api.ATTENTION_MASK, api.POSITION_EMBEDDINGS):
            signature.given(call, name)
        if index == self.settings.observed_layer and self.rows:
            self._observe(index, hidden, cache, call)
        self._entered.append(index)
        if index < self.settings.layer:
            return None
        if index == self.settings.layer:
            if self.rows:
                self._check_length(hidden)
            self._begin(hidden, cache, call)
            if self.reduction is not None:
                hidden = self.reduction.reduce(hidden)
        elif index - 1 in self._deepstack:
            hidden = self._inject(index - 1, hidden)
        if self._inputs is None:
            return None
        call = self._inputs.arguments(index, hidden, cache, call)
        if index == self.settings.asked_layer and not self.rows and hidden.shape[1] == 1:
            self._prune(index, hidden, cache, call)
        del call[signature.names[0]]
        return (hidden,), call

    def _check_length(self, hidden: torch.Tensor) -> None:
        """Check that the sequence is that of the ids, which say where the videos are."""
        ids = self._arguments[api.INPUT_IDS]
        if hidden.shape[1] != ids.shape[1]:
            raise api.mismatch(
                f"a sequence of {hidden.shape[1]} tokens for {ids.shape[1]} ids", "as many"
            )

    def past_text(self) -> Exception:
        """Build the error for a text model whose hooks did not run."""
        base, text = type(self.adapter.base).__name__, type(self.adapter.text).__name__
        return api.mismatch(
            f"a {base} that calls {text} past its hooks", f"a call of {text} itself"
        )

    def leave_text(self, output: Any) -> Any:
        """Behind the text model: check what happened, and give the output its original length.

        Raises:
            IncompatibleTransformersError: the layers or their cache hold something else than the
                plan says.
        """
        if self._inputs is None:
            return None
        self._check(output)
        if self.reduction is None:
            return None
        return api.with_text_hidden(output, self.reduction.restore(api.text_hidden(output)))

    def _check(self, output: Any) -> None:
        """Compare what the decoder did with what it was to do."""
        first, layers = self.settings.layer, len(self.adapter.layer_types)
        entered = [index for index in self._entered if index >= first]
        if entered != list(range(first, layers)):
            raise api.mismatch(
                f"a forward pass through the decoder layers {entered} from layer {first} on",
                f"each from {first} to {layers - 1}, in order",
            )
        reduction, returned = self.reduction, api.cache_of(output)
        length = self._length if reduction is None else reduction.length
        if api.text_hidden(output).shape[1] != length:
            raise api.mismatch(
                f"{api.text_hidden(output).shape[1]} tokens behind the last decoder layer",
                f"{length}",
            )
        if returned is not None and returned is not self._cache:
            raise api.mismatch("a model that returns another cache than it wrote to", "the same")
        if self._cache is not None:
            check_counts(
                self.adapter,
                self._cache,
                first=first,
                seen=self._seen + self._length,
                held=self._held + length,
                exact=bool(self.rows),
            )

    def _layer_cache(self, index: int, call: dict[str, Any]) -> Cache | None:
        """Return the cache that a layer was given: the same for the text model and all layers."""
        cache = api.cache_in(call.values())
        if self._cache is None and not self._entered:
            self._cache = cache  # the text model has just made it, or there is none
        if cache is not self._cache:
            raise api.mismatch(f"a decoder layer {index} that is not given the cache", "it")
        return cache

    def _refuse_embeddings(self, call: dict[str, Any]) -> None:
        """Refuse embeddings that reach the text model past the model: a video may be in them."""
        if call.get(api.INPUTS_EMBEDS) is not None:  # optional: ids are text
            raise UnreducedVideoError(
                f"got {api.INPUTS_EMBEDS} at {type(self.adapter.text).__name__}, past "
                f"{type(self.adapter.base).__name__}'s hooks, where videos in them cannot be seen. "
                "Call the model itself (not its forward()), or detach."
            )

    def _find_videos(self) -> list[list[VideoSpan]]:
        adapter = self.adapter
        features = api.handed_features(self._arguments, adapter.modality)
        ids = self._arguments.get(api.INPUT_IDS)  # optional: some pass embeddings
        if features is None and self._arguments.get(adapter.pixels) is None:  # text alone
            if self.videos is not None:
                raise api.mismatch("a model that encodes a video it was not given", adapter.pixels)
            self._refuse_bare_placeholders(ids)
            return []
        if ids is None:
            raise UnsupportedModelError(
                "got a video with inputs_embeds, expected input_ids: they tell where the video "
                "tokens stand. Pass input_ids."
            )
        videos = self.videos if features is None else getattr(features, "sttm_videos", None)
        if videos is None and adapter.modality == "video":
            raise UnreducedVideoError(
                "got video features that were not encoded under this attachment, or that "
                "prefill_chunk_size has split. Encode after attach(), and prefill in one piece."
            )
        wanted = "tower_attention" in needs_of(self.settings.method)
        if wanted and any(video.tower_attention is None for video in videos or ()):
            raise UnreducedVideoError(
                f"got video features without the vision tower's attention, which "
                f"{type(self.settings.method).__name__} needs. Encode them under this attachment "
                "(or by the chat with this method)."
            )
        rows = adapter.spans(ids.cpu(), videos or [], self._arguments)
        return rows if any(rows) else []

    def _refuse_bare_placeholders(self, ids: torch.Tensor | None) -> None:
        """Refuse a prompt whose video got lost on the way: the model would answer without it.

        Placeholders behind a prompt may be words of an answer, and are left alone.
        """
        if self.text_only or not (self._waiting or (self._seen == 0 and ids is not None)):
            return
        if ids is None or bool(self.adapter.placeholders(ids).any()):
            raise UnreducedVideoError(
                "got a prompt with placeholders of a video, or embeddings, but no video, expected "
                "both in one forward pass. Was the prompt split by prefill_chunk_size, or was the "
                "video encoded and not handed over? Prefill in one piece."
            )

    def _begin(self, hidden: torch.Tensor, cache: Cache | None, call: dict[str, Any]) -> None:
        """At the reduction's layer: plan, and prepare the inputs of this layer and all above."""
        kept = self._kept_layer(cache)
        self._length = hidden.shape[1]
        self._held = self._past if kept is None else kept.held()
        if not self.rows and kept is None:
            return
        self._refuse_unsupported(cache, call)
        past, chunk = split_padding(self._padding, self._past, hidden.shape[1])
        start = _now(hidden.device)
        if self.rows:
            self.reduction = BatchReduction.build(self._plans(hidden), chunk)
            chunk = self.reduction.valid
        self._inputs = LayerInputs(
            self.adapter.text.config,
            self.adapter.layer_types,
            self.settings.positions,
            self.rows,
            self.reduction,
            kept,
            self._rotary,
            self.settings.signatures.masks,
        )
        held = past if kept is None else kept.valid
        if held is not None or chunk is not None:
            length = hidden.shape[1] if self.reduction is None else self.reduction.length
            self._inputs.set_padding(held, chunk, (self._held, length))
        if self.settings.decode_pruning is not None:
            chunk = hidden.new_zeros(hidden.shape[:2], dtype=torch.bool)
            if self.reduction is not None:
                chunk = self.reduction.mark(self.rows)
            self._inputs.video = video_entries(kept, chunk)
        if self.rows:
            self._protect(hidden.shape[1], cache)
            self._report_time(_now(hidden.device) - start + self._seconds)

    def _observe(
        self, index: int, hidden: torch.Tensor, cache: Cache | None, call: dict[str, Any]
    ) -> None:
        """Measure the attention of every row's last token in layer ``index``."""
        start = _now(hidden.device)
        self._refuse_unsupported(cache, call)
        if index == self.settings.layer and self._kept_layer(cache) is not None:
            raise UnsupportedModelError(
                "got a cache that holds a reduced video in layer 0, expected one above it for a "
                "method that reads the prompt's attention. Attach at layer=1 or more."
            )
        before, valid = split_padding(self._padding, self._past, hidden.shape[1])
        sliding = self.adapter.layer_types[index] == api.SLIDING_ATTENTION
        self._attention = last_token_attention(
            self.adapter.text.layers[index],
            hidden,
            call[api.POSITION_EMBEDDINGS],
            valid=valid,
            past=Past.of(cache, index, self._past, before),
            window=self.adapter.text.config.sliding_window if sliding else None,
        )[:, -hidden.shape[1] :]
        self._seconds = _now(hidden.device) - start

    def _prune(
        self, index: int, hidden: torch.Tensor, cache: Cache | None, call: dict[str, Any]
    ) -> None:
        """While decoding: ask layer ``index`` what the layers above it need to see."""
        inputs, pruning = self._inputs, self.settings.decode_pruning
        assert inputs is not None
        assert inputs.video is not None
        assert pruning is not None
        assert cache is not None
        seen = seen_entries(
            self.adapter.text.layers[index],
            hidden,
            call[api.POSITION_EMBEDDINGS],
            cache.layers[index],
            valid=inputs.valid,
            video=inputs.video,
            keep=pruning.keep,
        )
        inputs.prune(seen, pruning.layer)

    def _protect(self, length: int, cache: Cache | None) -> None:
        """Keep crop() away from the video, in the layers below the reduction too."""
        assert self._inputs is not None
        last = max(int(span.index[-1]) for spans in self.rows for span in spans)
        self._inputs.tail = length - 1 - last
        for index in range(self.settings.layer if cache is not None else 0):
            layer = adopt_layer(cache, index)
            if layer is not None:
                layer.protect(self._inputs.tail)

    def _kept_layer(self, cache: Cache | None) -> ReducedLayer | None:
        found = list(reduced_layers(cache))
        if found and found[0][0] < self.settings.layer:
            raise ConfigError(
                f"got a KV cache that was reduced in front of layer {found[0][0]}, expected layer "
                f"{self.settings.layer}. Attach at the layer that the cache was made with."
            )
        return found[0][1] if found else None

    def _refuse_unsupported(self, cache: Cache | None, call: dict[str, Any]) -> None:
        implementation = str(self.adapter.text.config._attn_implementation)
        if api.is_packed(call) or implementation.startswith("paged"):
            raise UnsupportedModelError(
                "got packed sequences or paged attention, expected one prompt per row. "
                "Use generate() without continuous batching."
            )
        mask = api.full_mask(self._padding)
        static = cache is not None and cache.is_compileable
        if isinstance(mask, torch.Tensor) and mask.ndim != 2 and not static:
            raise UnsupportedModelError(
                f"got an attention mask of shape {tuple(mask.shape)}, expected 2-D (batch, tokens) "
                "with 1 for real tokens: a 4-D mask cannot follow the reduction."
            )

    def _plans(self, hidden: torch.Tensor) -> list[MergePlan]:
        """Plan every row, and note what was done."""
        own = [row for row in range(len(self.rows)) if not self._is_copy(row)]
        places = [(row, span) for row in own for span in self.rows[row]]
        tokens = [self._tokens(hidden, row, span) for row, span in places]
        made = plan_videos(self.settings.method, tokens)
        self._made = [self._report(t.video.grid, plan) for t, plan in zip(tokens, made)]
        queue = iter(made)
        plans: list[MergePlan] = []
        for row, spans in enumerate(self.rows):
            if self._is_copy(row):
                plans.append(plans[-1])
                continue
            parts = [(span.index.to(hidden.device), next(queue)) for span in spans]
            length, device = hidden.shape[1], hidden.device
            plan = sequence_plan(length, parts) if parts else MergePlan.identity(length, device)
            plans.append(plan)
        return plans

    def _is_copy(self, row: int) -> bool:
        """Whether a row repeats the one before it, for beams and samples."""
        return row > 0 and self.rows[row] is self.rows[row - 1]

    def _tokens(self, hidden: torch.Tensor, row: int, span: VideoSpan) -> VideoTokens:
        index, video = span.index.to(hidden.device), span.video
        x = hidden[row].detach().index_select(0, index)
        # Features may have been encoded for several methods, one of which asked for more.
        wanted = "tower_attention" in needs_of(self.settings.method)
        attention, tower = self._attention, video.tower_attention if wanted else None
        if attention is None and tower is None:
            return VideoTokens(x, video)
        if attention is not None:
            attention = attention[row].to(x.device).index_select(0, index)
        return VideoTokens(x, video, Evidence(tower, attention))

    def _report(self, grid: VideoGrid, plan: MergePlan) -> VideoReport:
        layer, policy = self.settings.layer, self.settings.positions
        return VideoReport(grid, plan.num_in, plan.num_out, layer, policy, 0.0, plan)

    def _report_time(self, seconds: float) -> None:
        each = seconds * 1e3 / sum(report.tokens_in for report in self._made)
        self.settings.reports = [replace(r, milliseconds=each * r.tokens_in) for r in self._made]

    def _inject(self, level: int, hidden: torch.Tensor) -> torch.Tensor:
        """Add a DeepStack level, merged like the tokens it belongs to."""
        if self.reduction is None or self._visual is None:
            return hidden
        full = hidden.new_zeros(*self._visual.shape, hidden.shape[-1])
        full[self._visual.to(hidden.device)] = self._deepstack[level].to(hidden)
        return hidden + self.reduction.reduce(full)


def _counts(cache: Cache | None) -> tuple[int, int]:
    """Count the tokens that a cache has seen, and those in the mask that the model builds itself.

    The two differ once a video was reduced in front of layer 0.
    """
    if cache is None:
        return 0, 0
    seen = int(cache.get_seq_length())
    return seen, seen - sum(layer.removed for i, layer in reduced_layers(cache) if i == 0)


def _now(device: torch.device) -> float:
    """Wall clock in seconds, after all work on ``device``."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
