"""Shorten the sequence in front of one decoder layer: plan every video, prepare what follows."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from transformers.cache_utils import Cache

from sttm.errors import ConfigError, UnsupportedModelError
from sttm.methods.base import VideoFeatures
from sttm.models import transformers_api as api
from sttm.models.adapter import Adapter, VideoSpan
from sttm.models.attention_scores import Past, last_token_attention
from sttm.models.cache import ReducedLayer, adopt_layer, reduced_layers
from sttm.models.configuration import ReductionConfig
from sttm.models.inputs import RotaryCall, ShortInputs, reassigned
from sttm.models.padding import join_padding, split_padding
from sttm.models.prompt import Prompt, Rows
from sttm.models.pruning import video_entries
from sttm.models.reduction import BatchReduction, plan_videos, sequence_plan, video_features
from sttm.models.report import VideoReport
from sttm.models.timing import now
from sttm.plan import MergePlan


class PromptScores(NamedTuple):
    """The attention of every row's last token.

    Args:
        attention: ``(B, N)`` float32 to the tokens of this forward.
        seconds: that measuring it took.
    """

    attention: torch.Tensor
    seconds: float


# Planning asks for numbers; traced, each would cut the graph, and videos would compile it anew.
@torch.compiler.disable  # type: ignore[untyped-decorator]
def shorten(
    adapter: Adapter,
    config: ReductionConfig,
    masks: Mapping[str, api.MaskFunction],
    prompt: Prompt,
    hidden: torch.Tensor,
    cache: Cache | None,
    kept: ReducedLayer | None,
    rotary: Sequence[RotaryCall],
    scores: PromptScores | None,
) -> tuple[torch.Tensor, ShortInputs, list[VideoReport]]:
    """Reduce the videos of a forward pass, and prepare the inputs of this layer and all above.

    Args:
        adapter: the model's family.
        config: how its videos are reduced.
        masks: builds the masks of each type of decoder layer.
        prompt: what the forward pass carries.
        hidden: ``(B, N, C)``, the input of layer ``config.layer``.
        cache: as it was before this layer; None if there is none.
        kept: a layer of it that holds a reduced video, see `kept_layer`.
        rotary: the calls of the rotary embedding so far.
        scores: the prompt's attention, if the method reads it.

    Returns:
        the shorter ``(B, L, C)``, what the layers must get differently, and a report of each video.

    Raises:
        ConfigError: a plan does not fit.
        UnsupportedModelError: a mask, cache or kind of attention that cannot follow.
    """
    cached, new = split_padding(prompt.mask, prompt.past, hidden.shape[1])
    start, reduction, reports = now(hidden.device), None, list[VideoReport]()
    if prompt.rows:
        plans, reports = _plan_rows(config, prompt.rows, hidden, scores)
        reduction = BatchReduction.build(plans, new)
        new = reduction.valid
    entries = prompt.past if kept is None else kept.num_entries()
    length = hidden.shape[1] if reduction is None else reduction.length
    shift, rotary_ids = None if kept is None else kept.shift, None
    if config.positions == "reassigned":
        rotary_ids, shift = reassigned(rotary, prompt.rows, reduction, shift)
    video_mask = None
    if config.decode_score_layer is not None:
        marks = hidden.new_zeros(hidden.shape[:2], dtype=torch.bool)
        video_mask = video_entries(kept, reduction.mark(prompt.rows) if reduction else marks)
    num_after_video = prompt.num_after_video(hidden.shape[1])
    if num_after_video is not None:
        _protect_below(cache, config.layer, num_after_video)
    short = ShortInputs(
        config=adapter.text.config,
        types=adapter.layer_types,
        masks=masks,
        policy=config.positions,
        rotary=rotary,
        reduction=reduction,
        rotary_ids=rotary_ids,
        shift=shift,
        valid=join_padding(cached if kept is None else kept.valid, new, (entries, length)),
        seen=prompt.seen + hidden.shape[1],
        entries=entries + length,
        length=length,
        video_mask=video_mask,
        num_after_video=num_after_video,
    )
    seconds = now(hidden.device) - start + (scores.seconds if scores else 0.0)
    return (
        hidden if reduction is None else reduction.reduce(hidden),
        short,
        [_timed(report, seconds, reports) for report in reports],
    )


def score_prompt(
    adapter: Adapter,
    config: ReductionConfig,
    prompt: Prompt,
    index: int,
    hidden: torch.Tensor,
    cache: Cache | None,
    embeddings: Any,
) -> PromptScores:
    """Measure the attention of every row's last token in layer ``index``.

    Args:
        adapter: the model's family.
        config: how its videos are reduced.
        prompt: what the forward pass carries.
        index: the decoder layer.
        hidden: ``(B, N, C)``, its input.
        cache: as it was before this layer.
        embeddings: the cos and sin that it is given.

    Raises:
        UnsupportedModelError: the cache holds a reduced video in this layer.
    """
    start = now(hidden.device)
    if index == config.layer and kept_layer(cache, config.layer) is not None:
        raise UnsupportedModelError(
            "got a cache that holds a reduced video in layer 0, expected one above it for a "
            "method that reads the prompt's attention. Attach at layer=1 or more."
        )
    cached, valid = split_padding(prompt.mask, prompt.past, hidden.shape[1])
    sliding = adapter.layer_types[index] == api.SLIDING_ATTENTION
    attention = last_token_attention(
        adapter.text.layers[index],
        hidden,
        embeddings,
        valid=valid,
        past=Past.of(cache, index, prompt.past, cached),
        window=adapter.text.config.sliding_window if sliding else None,
    )[:, -hidden.shape[1] :]
    return PromptScores(attention, now(hidden.device) - start)


def kept_layer(cache: Cache | None, first: int) -> ReducedLayer | None:
    """Return a layer of a cache that holds a reduced video, or None.

    Raises:
        ConfigError: it was reduced in front of another layer than ``first``.
    """
    found = next(reduced_layers(cache), None)
    if found is None:
        return None
    if found[0] < first:
        raise ConfigError(
            f"got a KV cache that was reduced in front of layer {found[0]}, expected layer "
            f"{first}. Attach at the layer that the cache was made with."
        )
    return found[1]


def refuse_unsupported(
    adapter: Adapter, prompt: Prompt, cache: Cache | None, call: Mapping[str, Any]
) -> None:
    """Refuse kinds of attention that cannot follow a reduction.

    Raises:
        UnsupportedModelError: packed sequences, paged attention, or a mask of more dimensions.
    """
    implementation = str(adapter.text.config._attn_implementation)
    if api.is_packed(call) or implementation.startswith("paged"):
        raise UnsupportedModelError(
            "got packed sequences or paged attention, expected one prompt per row. "
            "Use generate() without continuous batching."
        )
    mask = api.full_mask(prompt.mask)
    static = cache is not None and cache.is_compileable
    if isinstance(mask, torch.Tensor) and mask.ndim != 2 and not static:
        raise UnsupportedModelError(
            f"got an attention mask of shape {tuple(mask.shape)}, expected 2-D (batch, tokens) "
            "with 1 for real tokens: a 4-D mask cannot follow the reduction."
        )


def _plan_rows(
    config: ReductionConfig, rows: Rows, hidden: torch.Tensor, scores: PromptScores | None
) -> tuple[list[MergePlan], list[VideoReport]]:
    """Plan every row as a whole, and report on each video; beams and samples repeat a row."""
    length, device = hidden.shape[1], hidden.device
    # A row that repeats the one before it is the same object.
    own = [row for row in range(len(rows)) if row == 0 or rows[row] is not rows[row - 1]]
    places = [(row, span) for row in own for span in rows[row]]
    attention = None if scores is None else scores.attention
    videos = [_features(config, hidden[row], span, attention, row) for row, span in places]
    made = plan_videos(config.method, videos, [span.video for _, span in places])
    reports = [
        VideoReport(video.grid, p.num_in, p.num_out, config.layer, config.positions, 0.0, p)
        for video, p in zip(videos, made, strict=True)
    ]
    queue, plans = iter(made), list[MergePlan]()
    for row, spans in enumerate(rows):
        if row not in own:
            plans.append(plans[-1])
            continue
        parts = [(span.index.to(device), next(queue)) for span in spans]
        plans.append(sequence_plan(length, parts) if parts else MergePlan.identity(length, device))
    return plans, reports


def _features(
    config: ReductionConfig,
    hidden: torch.Tensor,
    span: VideoSpan,
    attention: torch.Tensor | None,
    row: int,
) -> VideoFeatures:
    """Take one video out of a row ``(N, C)``, with the attention that its method reads."""
    index = span.index.to(hidden.device)
    # Features may have been encoded for several methods, one of which asked for more.
    tower = span.video.tower_attention if config.needs_tower else None
    if attention is not None:
        attention = attention[row].to(hidden.device).index_select(0, index)
    return video_features(hidden.detach().index_select(0, index), span.video, tower, attention)


def _protect_below(cache: Cache | None, layer: int, num_after_video: int) -> None:
    """Keep crop() away from the video in the layers below the reduction, too."""
    for index in range(layer if cache is not None else 0):
        below = adopt_layer(cache, index)
        if below is not None:
            below.protect(num_after_video)


def _timed(report: VideoReport, seconds: float, reports: Sequence[VideoReport]) -> VideoReport:
    """Give a report its video's share of the time, by its tokens."""
    part = report.tokens_in / sum(each.tokens_in for each in reports)
    return replace(report, milliseconds=seconds * 1e3 * part)
