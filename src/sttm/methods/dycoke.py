"""DyCoke: its first stage in front of a layer, and fewer video tokens for each new token."""

from dataclasses import dataclass
from typing import ClassVar

from sttm.methods.base import DecodePruning
from sttm.methods.checks import check_count, check_number
from sttm.methods.dycoke1 import DyCokeStage1
from sttm.methods.registry import register


@register
@dataclass(frozen=True)
class DyCoke(DyCokeStage1):
    """Keep what changes within every four frames, and answer with the most attended part of it.

    While answering, the layer in front of ``decode_layer`` is asked how much a new token attends to
    each of the remaining video tokens (mean over heads). If that has changed since the new token
    before, or at the first one, the layers from ``decode_layer`` on see only the part that it
    attends to most. Otherwise nothing is hidden from this token. Nothing is taken out of the cache.
    The prompt itself, question included, sees everything.

    Args:
        keep: budget of the first stage: a ratio in (0, 1] as a float, or a count as an integer.
        decode_keep: part of the remaining video tokens, rounded down, that a new token sees whose
            attention has changed, in (0, 1].
        decode_layer: first decoder layer (0-based) that sees less; above the attachment's layer.
        decode_threshold: cosine in [-1, 1] with the attention of the new token before, below which
            it has changed.

    Raises:
        ConfigError: a value out of range.

    Source: DyCoke, arXiv 2411.15024. Differs: as `DyCokeStage1`; the second stage hides entries by
        a mask where the authors move them between two caches, so that it saves no time and no
        memory here.
    """

    name: ClassVar[str] = "dycoke"
    query_aware: ClassVar[bool] = True

    decode_keep: float = 0.3
    decode_layer: int = 3
    decode_threshold: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("decode_keep", self.decode_keep, 0.0, 1.0, above=True)
        check_count("decode_layer", self.decode_layer)
        check_number("decode_threshold", self.decode_threshold, -1.0, 1.0)

    @property
    def decode_pruning(self) -> DecodePruning:
        """What the second stage does; read by the attachment."""
        return DecodePruning(self.decode_layer, self.decode_keep, self.decode_threshold)
