"""A conversion before anything is written: what becomes of what, and what it takes."""

from dataclasses import dataclass
from typing import Any

import torch

from sttm.checkpoints.configure import build_config
from sttm.checkpoints.llava import check_newline
from sttm.checkpoints.mapping import TensorMap, map_tensors
from sttm.checkpoints.source import Source, open_source
from sttm.checkpoints.tokenizer import Tokenizer, read_tokenizer
from sttm.checkpoints.tower import Tower, find_tower
from sttm.errors import ConfigError
from sttm.models.families import pooled_side

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
NEWLINE = "no_token"  # as the published runs with merging had it
SHARD_BYTES = 2_000_000_000
_BASE_MEMORY = 1_000_000_000  # Python, torch, transformers
_STORED_EMBEDDING = "model.embed_tokens.weight"


@dataclass(frozen=True)
class Conversion:
    """A checkpoint, and the model that it becomes.

    Args:
        source: the checkpoint.
        tower: its vision tower.
        tokenizer: its tokenizer, with placeholders.
        config: the model's configuration.
        tensors: what becomes of every tensor.
    """

    source: Source
    tower: Tower
    tokenizer: Tokenizer
    config: Any
    tensors: TensorMap

    def needs(self) -> "Needs":
        """Say what the model takes to run."""
        text, side = self.config.text_config, pooled_side(self.config.vision_config)
        heads = text.num_key_value_heads * (text.hidden_size // text.num_attention_heads)
        values = 2 * text.num_hidden_layers * heads
        return Needs(
            parameters=self.tensors.parameters,
            weights=self.tensors.nbytes,
            conversion=self._memory(),
            tokens_per_frame=side * side,
            cache_per_frame=side * side * values * self.config.dtype.itemsize,
        )

    def _memory(self) -> int:
        """Count the memory of converting: tensors that stay as they are are never copied."""
        copied = [m.nbytes for m in self.tensors.moves if not m.unchanged]
        return _BASE_MEMORY + min(sum(copied), max(SHARD_BYTES, *copied, 0))


@dataclass(frozen=True)
class Needs:
    """What a model takes; sizes in bytes.

    Args:
        parameters: how many numbers it has.
        weights: of all of them, on disk and in memory.
        conversion: memory that writing it takes.
        tokens_per_frame: video tokens of one frame, before a reduction.
        cache_per_frame: keys and values of one frame in all layers, before a reduction.
    """

    parameters: int
    weights: int
    conversion: int
    tokens_per_frame: int
    cache_per_frame: int


def plan_conversion(
    checkpoint: str,
    *,
    vision_tower: str | None = None,
    newline: str = NEWLINE,
    dtype: str = "auto",
) -> Conversion:
    """Look at a checkpoint in LLaVA-NeXT's layout; reads only configurations and file headers.

    Args:
        checkpoint: folder or hub id.
        vision_tower: folder or hub id of the vision tower; None for the one in the checkpoint, or
            else the one that its config.json names.
        newline: where videos get newline tokens, see ``sttm.models.newlines``; ``"checkpoint"``
            for what its config.json says.
        dtype: of the weights: ``"auto"`` (as stored), ``"bfloat16"``, ``"float16"``, ``"float32"``.

    Raises:
        ConfigError: an argument is wrong, or the checkpoint is damaged or incomplete.
        UnsupportedModelError: it is not in LLaVA-NeXT's layout, or has parts nobody can convert.
    """
    if dtype != "auto" and dtype not in DTYPES:
        raise ConfigError(f"dtype: got {dtype!r}, expected one of: auto, {', '.join(DTYPES)}.")
    if newline != "checkpoint":
        check_newline(newline)
    source = open_source(checkpoint)
    if newline == "checkpoint":
        newline = check_newline(source.config.mm_newline_position)
    tower = find_tower(source, vision_tower)
    tokenizer = read_tokenizer(source.folder)
    kind = DTYPES[dtype] if dtype != "auto" else _own_dtype(source)
    config = build_config(source.config, tower, tokenizer, newline=newline, dtype=kind)
    return Conversion(source, tower, tokenizer, config, map_tensors(source, tower, config, kind))


def _own_dtype(source: Source) -> torch.dtype:
    stored = source.tensors.get(_STORED_EMBEDDING)
    return torch.bfloat16 if stored is None else stored.dtype
