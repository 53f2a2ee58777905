"""What one call of a model carries, read once in front of its text model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.cache_utils import Cache

from sttm.errors import UnreducedVideoError, UnsupportedModelError
from sttm.models import transformers_api as api
from sttm.models.adapter import Adapter, VideoLayout, VideoSpan, noted_videos
from sttm.models.cache import reduced_layers
from sttm.models.configuration import ReductionConfig

Rows = Sequence[Sequence[VideoSpan]]


@dataclass(frozen=True, eq=False)
class Prompt:
    """The tokens of one forward pass.

    Args:
        rows: the videos of each row; empty if the call carries none.
        length: tokens of each row as its ids count them; None if it carries no video.
        seen: tokens that the cache has seen.
        past: entries of the cache in the coordinates of ``mask``.
        mask: the attention mask that the text model was given, of any form.
        visual: ``(B, N)`` bool, the tokens that DeepStack features are added to; or None.
        deepstack: features ``(tokens, C)`` that are added behind decoder layers, by layer: those
            that the reduction has to shorten.
    """

    rows: Rows
    length: int | None
    seen: int
    past: int
    mask: Any
    visual: torch.Tensor | None = None
    deepstack: Mapping[int, torch.Tensor] = field(default_factory=dict)

    def num_after_video(self, length: int) -> int | None:
        """Count the tokens behind the last video of ``length``; None if there is no video."""
        ends = [int(span.index[-1]) for spans in self.rows for span in spans]
        return length - 1 - max(ends) if ends else None

    def check_length(self, hidden: torch.Tensor) -> None:
        """Check that a sequence is that of the ids, which say where the videos are.

        Raises:
            IncompatibleTransformersError: it is longer or shorter.
        """
        if self.rows and hidden.shape[1] != self.length:
            raise api.mismatch(
                f"a sequence of {hidden.shape[1]} tokens for {self.length} ids", "as many"
            )


def count_cached(cache: Cache | None) -> tuple[int, int]:
    """Count the tokens that a cache has seen, and those in the mask that the model builds itself.

    The two differ once a video was reduced in front of layer 0.
    """
    if cache is None:
        return 0, 0
    seen = int(cache.get_seq_length())
    return seen, seen - sum(layer.removed for i, layer in reduced_layers(cache) if i == 0)


def find_videos(
    adapter: Adapter,
    config: ReductionConfig,
    arguments: Mapping[str, Any],
    videos: Sequence[VideoLayout] | None,
) -> Rows | None:
    """Find the videos that a call of the model carries.

    Args:
        adapter: the model's family.
        config: how they will be reduced.
        arguments: the call's arguments by name.
        videos: what the encoder gave during this call; None if it did not run.

    Returns:
        the videos of each row; None if the call is text alone.

    Raises:
        UnreducedVideoError: a video that nothing is known of.
        UnsupportedModelError: a video without ids.
        IncompatibleTransformersError: the model encodes a video that it was not given.
    """
    features = api.handed_features(arguments, adapter.modality)
    if features is None and arguments.get(adapter.pixels) is None:
        if videos is not None:
            raise api.mismatch("a model that encodes a video it was not given", adapter.pixels)
        return None
    ids = arguments.get(api.INPUT_IDS)  # optional: some pass embeddings
    if ids is None:
        raise UnsupportedModelError(
            "got a video with inputs_embeds, expected input_ids: they tell where the video "
            "tokens stand. Pass input_ids."
        )
    if features is not None:
        videos = noted_videos(features)
    if videos is None and adapter.modality == "video":
        raise UnreducedVideoError(
            "got video features that were not encoded under this attachment, or that "
            "prefill_chunk_size has split. Encode after attach(), and prefill in one piece."
        )
    if config.needs_tower and any(video.tower_attention is None for video in videos or ()):
        raise UnreducedVideoError(
            f"got video features without the vision tower's attention, which "
            f"{type(config.method).__name__} needs. Encode them under this attachment "
            "(or by the chat with this method)."
        )
    return adapter.spans(ids.cpu(), videos or [], arguments)


def refuse_bare_placeholders(
    adapter: Adapter, arguments: Mapping[str, Any], *, seen: int, waiting: bool
) -> None:
    """Refuse a prompt whose video got lost on the way: the model would answer without it.

    Placeholders behind a prompt may be words of an answer, and are left alone.

    Args:
        adapter: the model's family.
        arguments: the call's arguments by name; it carries no video.
        seen: tokens that the cache has seen.
        waiting: whether a video was encoded that no forward pass has been given yet.

    Raises:
        UnreducedVideoError: there are placeholders of a video.
    """
    ids = arguments.get(api.INPUT_IDS)  # optional: some pass embeddings
    if not waiting and (seen or ids is None):
        return
    if ids is None or bool(adapter.placeholders(ids).any()):
        raise UnreducedVideoError(
            "got a prompt with placeholders of a video, or embeddings, but no video, expected "
            "both in one forward pass. Was the prompt split by prefill_chunk_size, or was the "
            "video encoded and not handed over? Prefill in one piece."
        )


def split_deepstack(
    adapter: Adapter, signature: api.Signature, call: Mapping[str, Any], layer: int
) -> tuple[torch.Tensor, dict[int, torch.Tensor], dict[str, Any]]:
    """Take the DeepStack features of layers behind the reduction out of a text model's arguments.

    Args:
        adapter: the model's family.
        signature: of the text model.
        call: its arguments by name.
        layer: the first layer behind the reduction.

    Returns:
        which tokens they belong to ``(B, N)`` bool, the features by layer, and the arguments
        without them.

    Raises:
        IncompatibleTransformersError: there are none.
        UnsupportedModelError: there are as many levels as layers.
    """
    visual = signature.given(call, api.VISUAL_MASK)
    levels = signature.given(call, api.DEEPSTACK)
    if levels is None or visual is None:
        raise api.mismatch(f"a video without {api.DEEPSTACK}", "features for the first layers")
    if len(levels) >= len(adapter.text.layers):
        raise UnsupportedModelError(
            f"got {len(levels)} DeepStack levels for {len(adapter.text.layers)} decoder layers, "
            "expected fewer levels than layers."
        )
    held = {index: levels[index] for index in range(layer, len(levels))}
    return visual, held, {**call, api.DEEPSTACK: levels[:layer]}
