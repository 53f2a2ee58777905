"""New models, and models from checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import LlavaOnevisionForConditionalGeneration, PreTrainedTokenizerFast

from training.model import CellHead, build_config, build_model, nano_tower
from training.text import VOCABULARY, build_tokenizer


def new_model(seed: int) -> tuple[LlavaOnevisionForConditionalGeneration, CellHead]:
    """An untrained model and its cell heads."""
    tokenizer = build_tokenizer()
    config = build_config(tokenizer, nano_tower(), vocabulary=VOCABULARY)
    return build_model(config, seed), CellHead()


@torch.no_grad()
def load_weights(folder: Path, model: LlavaOnevisionForConditionalGeneration) -> None:
    """Read an exported weights folder, whose tokenizer may have fewer words.

    A token of both tokenizers keeps its embedding; the others keep what they have.
    """
    old = LlavaOnevisionForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    state = old.state_dict()
    known = PreTrainedTokenizerFast.from_pretrained(folder).get_vocab()
    embedding = model.get_input_embeddings().weight
    scale = old.get_input_embeddings().weight[5:].pow(2).mean().sqrt()
    embedding.mul_(scale / embedding.pow(2).mean().sqrt())
    for token, index in build_tokenizer().get_vocab().items():
        if token in known:
            embedding[index] = old.get_input_embeddings().weight[known[token]]
    rest = {k: v for k, v in state.items() if v.shape[0] != old.config.text_config.vocab_size}
    missing, unexpected = model.load_state_dict(rest, strict=False)
    assert not unexpected
    assert all("embed_tokens" in name or "lm_head" in name for name in missing)


def load_state(path: Path, model: torch.nn.Module, head: CellHead) -> dict[str, Any]:
    """Read a checkpoint into model and heads; returns all of it."""
    state: dict[str, Any] = torch.load(path, weights_only=True)
    model.load_state_dict(state["model"])
    head.load_state_dict(state["head"])
    return state
