"""New models, and models from checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import LlavaOnevisionForConditionalGeneration

from training.model import CellHead, build_config, build_model
from training.text import VOCABULARY, build_tokenizer


def new_model(seed: int) -> tuple[LlavaOnevisionForConditionalGeneration, CellHead]:
    """An untrained model and its cell heads."""
    tokenizer = build_tokenizer()
    config = build_config(
        VOCABULARY,
        image_token=tokenizer.convert_tokens_to_ids("<image>"),
        video_token=tokenizer.convert_tokens_to_ids("<video>"),
        end_token=tokenizer.eos_token_id,
        pad_token=tokenizer.pad_token_id,
    )
    model = build_model(config, seed)
    return model, CellHead()


def load_state(path: Path, model: torch.nn.Module, head: CellHead) -> dict[str, Any]:
    """Read a checkpoint into model and heads; returns all of it."""
    state: dict[str, Any] = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    head.load_state_dict(state["head"])
    return state
