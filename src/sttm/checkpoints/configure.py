"""The configuration of transformers' LLaVA-OneVision that a LLaVA-NeXT checkpoint has."""

import re
from typing import Any

import torch
from transformers import GenerationConfig, LlavaOnevisionConfig

from sttm.checkpoints.llava import NEWLINE_KEY
from sttm.checkpoints.source import NextConfig
from sttm.checkpoints.tokenizer import Tokenizer
from sttm.checkpoints.tower import Tower

_ROUND_UP = 64  # rows of a grown vocabulary: sizes that split evenly over devices
_TEXT = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "tie_word_embeddings",
    "use_sliding_window",
    "sliding_window",
    "bos_token_id",
)


def build_config(
    source: NextConfig, tower: Tower, tokenizer: Tokenizer, *, newline: str, dtype: torch.dtype
) -> Any:
    """Build the configuration.

    Args:
        source: the checkpoint's.
        tower: its vision tower.
        tokenizer: its tokenizer, with placeholders.
        newline: where videos get newline tokens.
        dtype: of the weights.

    Returns:
        a ``LlavaOnevisionConfig``; what transformers does not know rides on it.
    """
    text = {name: getattr(source, name) for name in _TEXT}
    if source.max_window_layers is not None:
        text["max_window_layers"] = source.max_window_layers
    side = tower.config["image_size"]
    known = re.fullmatch(r"anyres_max_\d+", source.image_aspect_ratio or "")
    config = LlavaOnevisionConfig(
        text_config={
            **text,
            "model_type": "qwen2",
            "vocab_size": vocabulary(source.vocab_size, tokenizer),
            "eos_token_id": tokenizer.ends[0],
            "pad_token_id": tokenizer.pad,
            # LLaVA-NeXT's own class ignores rope_scaling.
            "rope_parameters": {"rope_type": "default", "rope_theta": source.rope_theta},
        },
        vision_config={
            **tower.config,
            "model_type": "siglip_vision_model",
            "num_hidden_layers": tower.dropped,
            "vision_use_head": False,
        },
        image_token_index=tokenizer.image,
        video_token_index=tokenizer.video,
        tie_word_embeddings=source.tie_word_embeddings,
        image_grid_pinpoints=_pinpoints(source.image_grid_pinpoints, side),
        **({"vision_aspect_ratio": source.image_aspect_ratio} if known else {}),
    )
    config.dtype = dtype
    config.architectures = ["LlavaOnevisionForConditionalGeneration"]
    setattr(config, NEWLINE_KEY, newline)
    config.add_time_instruction = source.add_time_instruction
    return config


def build_generation_config(tokenizer: Tokenizer) -> Any:
    """Say what ends an answer; greedy, whatever the checkpoint's own sampling defaults are."""
    return GenerationConfig(
        eos_token_id=tokenizer.ends, pad_token_id=tokenizer.pad, do_sample=False
    )


def vocabulary(rows: int, tokenizer: Tokenizer) -> int:
    """Count the rows of the vocabulary: more than there are only if the placeholders need them."""
    needed = max(tokenizer.image, tokenizer.video) + 1
    return rows if needed <= rows else -(-needed // _ROUND_UP) * _ROUND_UP


def _pinpoints(given: str | list[tuple[int, int]] | None, side: int) -> list[list[int]] | None:
    """Read the sizes that images are cut to; ``(1x1),...,(6x6)`` counts tiles."""
    if given is None:
        return None
    if not isinstance(given, str):
        return [list(pair) for pair in given]
    pairs = [(int(a), int(b)) for a, b in re.findall(r"\((\d+)x(\d+)\)", given)]
    if not pairs:
        return None
    first, last = pairs[0], pairs[-1]
    rows, columns = (range(low, high + 1) for low, high in zip(first, last))
    return [[side * row, side * column] for row in rows for column in columns]
