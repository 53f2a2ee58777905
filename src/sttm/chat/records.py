"""Plain records that conversations give and store."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Self

import torch

from sttm.chat.prompt import Prefix
from sttm.deprecated import warn_renamed
from sttm.errors import ConfigError
from sttm.models import Positions
from sttm.models.cache import ReducedLayer
from sttm.models.report import VideoReport

if TYPE_CHECKING:
    from sttm.chat.prefilled import Conversation


@dataclass(frozen=True)
class Answer:
    """A model's answer.

    Args:
        text: the answer, without special tokens.
        ids: its token ids.
        prompt_tokens: those that this question paid for, as counted in front of the decoder.
        ttft: seconds from the question to its first token (time to first token).
        seconds: seconds to the last token.
        output: what ``generate`` gave, if it was asked for more than ids; else None.
    """

    text: str
    ids: tuple[int, ...] = field(repr=False)
    prompt_tokens: int
    ttft: float
    seconds: float
    output: Any = field(default=None, repr=False)

    @property
    def tokens(self) -> int:
        """The old name of ``prompt_tokens``, until 0.3."""
        warn_renamed("Answer.tokens", "Answer.prompt_tokens")
        return self.prompt_tokens


@dataclass(frozen=True)
class Timings:
    """Where the time of watching went, in seconds."""

    decode: float = 0.0
    process: float = 0.0
    encode: float = 0.0
    prefill: float = 0.0

    def __add__(self, other: "Timings") -> "Timings":
        return Timings(**{name: value + vars(other)[name] for name, value in vars(self).items()})


@dataclass(frozen=True)
class Source:
    """What a watched video was.

    Args:
        path: of its file, as it was named.
        duration: in seconds.
        timestamps: of its frames, in seconds.
        warnings: what is wrong with its file.
        content: digest of what was watched; empty if no store was asked for it.
    """

    path: str
    duration: float
    timestamps: tuple[float, ...]
    warnings: tuple[str, ...] = ()
    content: str = ""


@dataclass(frozen=True, eq=False)
class Encoded:
    """A video behind the vision tower and in front of the language model.

    Args:
        prefix: what all prompts about the video begin with.
        inputs: the model's arguments up to the question, without the frames.
        features: what the encoder gave; not modified by prefilling it.
        tokens: video tokens among the inputs.
        source: what was watched.
        timings: where the time went so far.
        behind: the conversation that the video follows on, whose tokens are not among the inputs
            as far as they are in its prefix; None if it begins with the video.
    """

    prefix: Prefix
    inputs: dict[str, torch.Tensor]
    features: Any
    tokens: int
    source: Source
    timings: Timings
    behind: "Conversation | None" = None


@dataclass(frozen=True, eq=False, kw_only=True)
class PrefillState:
    """Videos in a model's cache, and what is needed to go on from there.

    Most often it is one video. Without any it is the beginning of a conversation in words.

    Args:
        cache: holds the videos and the text around them.
        ids: ``(n,)`` int64 on the CPU, the tokens that the cache has seen.
        prefix: what all prompts about the videos begin with.
        next_position: rotary position of the next token.
        layer: the decoder layer in front of which videos were reduced; None if none was.
        positions: the position policy.
        method: the method that reduced them, with its options; None if all tokens were kept.
        tokens_in: video tokens in front of the reduction.
        reports: how each reduction went, video by video; empty if all tokens were kept.
        sources: of each video, the file and the frames that were sampled.
        timings: where the time of watching all of them went.
    """

    cache: Any
    ids: torch.Tensor
    prefix: Prefix
    next_position: int
    layer: int | None
    positions: Positions
    method: str | None
    tokens_in: int
    reports: tuple[VideoReport, ...]
    sources: tuple[Source, ...]
    timings: Timings

    @property
    def source(self) -> Source:
        """The file and the frames of the last video.

        Raises:
            ConfigError: there is no video.
        """
        if not self.sources:
            raise ConfigError("source: got a conversation without a video, expected one.")
        return self.sources[-1]

    @property
    def tokens_out(self) -> int:
        """Video tokens behind the reduction."""
        removed = [x.removed for x in self.cache.layers if isinstance(x, ReducedLayer) and x.active]
        return self.tokens_in - removed[0] if removed else self.tokens_in

    @property
    def retention(self) -> float:
        """Tokens out / tokens in; 1 without a video."""
        return self.tokens_out / self.tokens_in if self.tokens_in else 1.0

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors in the cache."""
        values = (value for layer in self.cache.layers for value in vars(layer).values())
        parts = (p for v in values for p in (v.values() if isinstance(v, Mapping) else (v,)))
        return sum(part.nbytes for part in parts if isinstance(part, torch.Tensor))

    def state(self) -> "PrefillState":
        """Return the same without what a subclass adds: nothing that refers to a model."""
        return PrefillState(**{f.name: getattr(self, f.name) for f in fields(PrefillState)})

    def to(self, devices: Sequence[torch.device | str]) -> Self:
        """Return the same on other devices; tensors that are there already are shared.

        Args:
            devices: of each layer of the cache.
        """
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in cache.layers]
        for layer, device in zip(cache.layers, devices, strict=True):
            for name, value in vars(layer).items():
                setattr(layer, name, _moved(value, torch.device(device)))
        reports = tuple(replace(r, plan=r.plan.to(devices[0])) for r in self.reports)
        return replace(self, cache=cache, reports=reports)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, Mapping):
        return {name: _moved(inner, device) for name, inner in value.items()}
    return device if isinstance(value, torch.device) else value


def fork(cache: Any) -> Any:
    """Copy a dynamic cache so that the copy can grow by itself; long tensors are shared.

    Growing layers never write into their tensors, they replace them; recurrent states are copied.
    """
    new = copy.copy(cache)
    new.layers = [
        copy.copy(layer) if hasattr(layer, "keys") else copy.deepcopy(layer)
        for layer in cache.layers
    ]
    return new
