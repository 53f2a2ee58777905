"""The model: EfficientNet-Lite0, a projector and a small Qwen2 decoder, as a LLaVA-OneVision."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from transformers import (
    GenerationConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    ProcessorMixin,
    SiglipVisionConfig,
)

from sttm.nano.clips import QUADRANTS
from training.initial import CORNER_WORDS, Lexicon
from training.model import GRID, CellHead, ReadOut, build_config
from training.real.clips import SIZE
from training.real.mrope import MROPE, mrope_model, mrope_processor
from training.real.questions import sentences
from training.real.sources import BACKGROUNDS, KINDS
from training.real.tower import WIDTH_OF_CELLS, LiteTower
from training.text import build_processor, build_tokenizer

LAYERS, MLP = 5, 384
PIXEL_SCALE = (127 / 255, 128 / 255)  # mean and deviation of pixels between 0 and 1
NONE = len(KINDS)  # class of the cells without a needle
READ_OUTS = {
    "kind": ReadOut(NONE + 1, 1.0, none=NONE),
    "quadrant": ReadOut(len(QUADRANTS), 0.3),
    "background": ReadOut(len(BACKGROUNDS), 0.3),
}
LEXICON = Lexicon(
    (len(KINDS), len(QUADRANTS)),
    NONE,
    (
        *((w, 0, (i,)) for i, name in enumerate(KINDS) for w in (name, f" {name}")),
        *((word, 1, classes) for word, classes in CORNER_WORDS),
    ),
)


@lru_cache(maxsize=1)
def tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer, trained on all questions and answers."""
    return build_tokenizer(sentences())


def vision_config() -> SiglipVisionConfig:
    """Stand in for the real tower's configuration: transformers has no Lite0."""
    return SiglipVisionConfig(
        hidden_size=WIDTH_OF_CELLS,
        intermediate_size=1,
        num_hidden_layers=1,
        num_attention_heads=1,
        image_size=SIZE,
        patch_size=SIZE // (2 * GRID),
        vision_use_head=False,
    )


def new_model(seed: int) -> tuple[LlavaOnevisionForConditionalGeneration, CellHead]:
    """Build an untrained model, without its tower, and the read-outs of its cells."""
    torch.manual_seed(seed)
    words = tokenizer()
    config = build_config(words, vision_config(), vocabulary=len(words), layers=LAYERS, mlp=MLP)
    model = LlavaOnevisionForConditionalGeneration(config)
    model.model.vision_tower = torch.nn.Identity()
    return model, CellHead(READ_OUTS)


def load(path: Path) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Load a trained model with the frozen tower, and its processor.

    Args:
        path: a checkpoint of ``training.real.train``.

    Returns:
        the model in float32, in eval mode, and its processor; a Qwen2.5-VL from the stage `MROPE`,
        a LLaVA-OneVision from the others.
    """
    state = torch.load(path, weights_only=True)
    trained, _ = new_model(0)
    model: PreTrainedModel = trained
    processor: ProcessorMixin
    if state["stage"] == MROPE:
        model = mrope_model(trained, state["model"], tokenizer())
        processor = mrope_processor(tokenizer(), *PIXEL_SCALE)
    else:
        trained.load_state_dict(state["model"])
        trained.model.vision_tower = LiteTower()
        processor = build_processor(tokenizer(), SIZE, *PIXEL_SCALE)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer().eos_token_id,
        pad_token_id=tokenizer().pad_token_id,
        max_new_tokens=8,
        do_sample=False,
    )
    return model.eval(), processor
