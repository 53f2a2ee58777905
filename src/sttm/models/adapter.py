"""What the library must know of a model family: where its video tokens stand, and their grid."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from transformers.cache_utils import get_layer_types_and_kwargs

from sttm.errors import UnreducedVideoError, UnsupportedModelError
from sttm.grid import VideoGrid
from sttm.models.attention_scores import Tower, attention_problem
from sttm.models.transformers_api import (
    FULL_ATTENTION,
    PIXELS,
    SLIDING_ATTENTION,
    Modality,
    Signature,
    mismatch,
    pretrained,
)

Step = dict[str, torch.Tensor]  # an encoder call about one time step, its arguments by name
Positions = Literal["survived", "reassigned", "merged"]
# Types of decoder layers that have attention weights.
WEIGHTED = (FULL_ATTENTION, SLIDING_ATTENTION)


@dataclass(frozen=True)
class VideoLayout:
    """One video as its encoder gave it.

    Args:
        grid: the video's shape in tokens.
        num_newlines: placeholders behind the video that are no grid tokens (LLaVA-OneVision's).
        present: ``(grid.num_tokens,)`` bool for models that drop some tokens themselves; None
            where all are there.
        tower_attention: ``(grid.num_tokens,)`` float32, see `sttm.VideoFeatures`; None unless a
            method reads it.
    """

    grid: VideoGrid
    num_newlines: int = 0
    present: torch.Tensor | None = None
    tower_attention: torch.Tensor | None = None

    @property
    def num_present(self) -> int:
        """Grid tokens that are in the sequence."""
        return self.grid.num_tokens if self.present is None else int(self.present.sum())

    @property
    def num_placeholders(self) -> int:
        """Tokens of the sequence that stand for the video."""
        return self.num_present + self.num_newlines

    @property
    def gaps(self) -> torch.Tensor | None:
        """``present`` if the model dropped any token; else None."""
        return None if self.present is None or bool(self.present.all()) else self.present

    def __str__(self) -> str:
        return str(self.grid)


def note_videos(features: Any, videos: Sequence[VideoLayout]) -> None:
    """Write into an encoder's output which videos are in it: `generate` hands over nothing else.

    As an entry and not as an attribute, since accelerate copies the output's entries alone.
    """
    features["sttm_videos"] = list(videos)


def noted_videos(features: Any) -> list[VideoLayout] | None:
    """Read what `note_videos` wrote; None if nothing did."""
    return getattr(features, "sttm_videos", None)  # absent: encoded without the hooks


@dataclass(frozen=True)
class VideoSpan:
    """One video in one row of the batch.

    Args:
        index: ``(num_present,)`` int64 on the CPU, ascending: places in the row's sequence.
        video: the grid those tokens belong to.
    """

    index: torch.Tensor
    video: VideoLayout


class Adapter:
    """A model family. Subclasses state facts; almost all of the work is generic.

    Attributes:
        family: name for people.
        model_types: values of ``config.model_type`` it serves.
        positions: default position policy.
        modality: which encoder output holds the frames, "video" or "image".
        encoder_arguments: what tells the grids, beside the pixels, in a call of the encoder.
        deepstack: whether features of several layers of the vision tower enter the decoder.
        not_streamable: why a prompt cannot grow with its video; empty if it can.
        layer: recommended merging layer for models of the usual size, for methods without a
            default of their own.
        checkpoints: some published models, for ``sttm models``.
    """

    family: ClassVar[str]
    model_types: ClassVar[tuple[str, ...]]
    positions: ClassVar[Positions] = "survived"
    modality: ClassVar[Modality] = "video"
    encoder_arguments: ClassVar[tuple[str, ...]] = ()
    deepstack: ClassVar[bool] = False
    not_streamable: ClassVar[str] = ""
    layer: ClassVar[int] = 2
    checkpoints: ClassVar[tuple[str, ...]] = ()

    def __init__(self, model: Any) -> None:
        self.model = pretrained(model)
        for name in ("base_model", "get_decoder"):
            if not hasattr(self.model, name):
                raise mismatch(f"{type(self.model).__name__} without {name}", "it")
        self.base = self.model.base_model
        self.text = self.model.get_decoder()
        self.config = self.model.config
        for name in ("layers", "rotary_emb", "norm"):
            if not hasattr(self.text, name):
                raise UnsupportedModelError(
                    f"got {type(self.model).__name__} whose decoder {type(self.text).__name__} "
                    f"has no {name!r}, expected a transformers video model with its own decoder. "
                    "Load it with AutoModelForImageTextToText."
                )

    @cached_property
    def layer_types(self) -> Sequence[str]:
        """Type of every decoder layer; looked up once, since every decoding step reads it."""
        types: list[str] = get_layer_types_and_kwargs(self.text.config)[0]
        return types[: len(self.text.layers)]  # the configuration may speak of more

    def library_fault(self) -> str:
        """Say why the installed transformers cannot run this model at all; empty if it can."""
        return ""

    @property
    def encoder(self) -> str:
        """Name of the method that encodes videos."""
        return f"get_{self.modality}_features"

    @property
    def pixels(self) -> str:
        """Name of the argument that holds the frames."""
        return PIXELS[self.modality]

    def for_encoder(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of the model's arguments that its encoder takes."""
        names = Signature.of(self.base, self.encoder)
        return {name: value for name, value in inputs.items() if name in names}

    def encoded(self, arguments: Mapping[str, Any], output: Any) -> list[VideoLayout]:
        """Read the grids of the videos of one encoder call.

        Args:
            arguments: the call's arguments by name.
            output: what the encoder returned.
        """
        raise NotImplementedError

    def split_steps(self, arguments: Mapping[str, Any]) -> list[Step] | None:
        """Split a call of the encoder into its time steps, which the tower sees by themselves.

        Args:
            arguments: the call's arguments by name.

        Returns:
            calls about one time step each, in order of (video, time). Calls are put together by
            joining each argument along its first axis. None: this family's cannot be split.
        """
        return None

    def join_steps(self, arguments: Mapping[str, Any], steps: Sequence[torch.Tensor]) -> Any:
        """Put the features of all time steps together, in the form the encoder gives them.

        Args:
            arguments: of the whole call.
            steps: ``(n, C)`` features of each time step, as calls about it alone give them.
        """
        raise NotImplementedError

    def step_patches(self, step: Step) -> torch.Tensor:
        """Return the pixels of the patches of one time step, ``(patches, values)``."""
        raise NotImplementedError

    def tower_layers(self) -> Sequence[torch.nn.Module]:
        """Return the layers of the vision tower, of which each sees the patches of a time step.

        Raises:
            UnsupportedModelError: this family does not say.
        """
        raise UnsupportedModelError(
            f"got {type(self.model).__name__} for reuse, expected a LLaVA or Qwen-VL model: the "
            "layers of its vision tower are not known. Leave reuse out."
        )

    def step_order(self, step: Step) -> torch.Tensor | None:
        """Return the patches of a time step in the tower's order; None: as they are."""
        return None

    def attention_layer(self, layer: int) -> int:
        """Return the decoder layer whose attention is evidence for a reduction before ``layer``.

        The nearest one below that has attention weights at all; below layer 0, layer 0 itself.

        Raises:
            UnsupportedModelError: there is none.
        """
        kinds = self.layer_types
        usable = [i for i, kind in enumerate(kinds) if kind in WEIGHTED]
        below = [i for i in usable if i <= max(layer - 1, 0)]
        if not below:
            advice = f"Use layer={usable[0] + 1} or more." if usable else "Use another method."
            raise UnsupportedModelError(
                f"got layer={layer} for a method that reads the prompt's attention, expected a "
                f"full-attention layer below it: there are only {kinds[: max(layer, 1)]}. {advice}"
            )
        problem = attention_problem(self.text.layers[below[-1]])
        if problem:
            raise UnsupportedModelError(
                f"got {type(self.model).__name__} for a method that reads the prompt's attention, "
                f"expected separate query and key projections: {problem}. Use another method."
            )
        return below[-1]

    def tower(self) -> Tower:
        """Tell where the vision tower's attention is read, and how it becomes one per token.

        Raises:
            UnsupportedModelError: this family does not say.
        """
        raise UnsupportedModelError(
            f"got {type(self.model).__name__} for a method that reads the vision tower's "
            "attention, expected a LLaVA or Qwen-VL model: its tower is not known. "
            "Use a method without tower_attention (see sttm.list_methods()), or add tower() to "
            "the family, see docs/adding-a-model.md."
        )

    def placeholders(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Mark the places of video features: ``(B, N)`` ids to ``(B, N)`` bool."""
        return torch.eq(input_ids, self.config.video_token_id)

    def newlines(self, grid: VideoGrid) -> int:
        """Count the newline tokens of a video."""
        return 0

    def spans(
        self,
        input_ids: torch.Tensor,
        videos: Sequence[VideoLayout],
        arguments: Mapping[str, Any],
    ) -> list[list[VideoSpan]]:
        """Find every video of every row.

        Args:
            input_ids: ``(B, N)`` int64 on the CPU.
            videos: what the encoder gave, in order of (row, place).
            arguments: the forward's arguments by name.

        Raises:
            UnreducedVideoError: placeholders and videos do not agree.
        """
        mask = self.placeholders(input_ids)
        copies = count_copies(mask, videos)
        queue = iter(videos)
        rows: list[list[VideoSpan]] = []
        for row in range(mask.shape[0]):
            if row % copies:
                rows.append(rows[-1])
            else:
                rows.append(list(_take(mask[row].nonzero().squeeze(1), queue)))
        return rows


def count_copies(mask: torch.Tensor, videos: Sequence[VideoLayout]) -> int:
    """Count how often every row comes: beam search and repeated sampling multiply them.

    Raises:
        UnreducedVideoError: the placeholders are no multiple of the encoded tokens.
    """
    wanted = sum([video.num_placeholders for video in videos])
    found = int(mask.sum())
    if not wanted or found % wanted or mask.shape[0] % max(found // wanted, 1):
        raise UnreducedVideoError(
            f"got {found} video placeholders in the prompt, expected {wanted} (or a multiple of "
            "it, for beams): one for each encoded token. Is the video split by prefill_chunk_size, "
            "or the prompt shortened?"
        )
    return found // wanted


def _take(places: torch.Tensor, queue: Iterator[VideoLayout]) -> Iterator[VideoSpan]:
    """Deal the places of one row to the next videos of the queue."""
    at = 0
    while at < len(places):
        video = next(queue, None)
        size = 0 if video is None else video.num_placeholders
        if video is None or at + size > len(places):
            raise UnreducedVideoError(
                f"got a row with {len(places)} video placeholders that is no sum of whole videos. "
                "Pass every video with its row, unshortened."
            )
        yield VideoSpan(places[at : at + video.num_present], video)
        at += size


def merged_grids(grid_thw: torch.Tensor, merge: Any) -> list[VideoGrid]:
    """Turn patch grids ``(videos, 3)`` into token grids, for one or per-video merge sizes."""
    merges = merge.tolist() if isinstance(merge, torch.Tensor) else [merge] * len(grid_thw)
    return [VideoGrid(t, h // m, w // m) for (t, h, w), m in zip(grid_thw.tolist(), merges)]
