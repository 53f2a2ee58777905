"""The shape of nano: a SigLIP tower, a two-layer projector and a Qwen2 decoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2Config,
    SiglipVisionConfig,
)

IMAGE_SIZE = 128
PATCH_SIZE = 8
GRID = IMAGE_SIZE // PATCH_SIZE // 2  # side of the pooled grid of one frame, in tokens
TOWER_WIDTH = 96
WIDTH = 192
MAX_POSITIONS = 8192


def nano_tower() -> SiglipVisionConfig:
    """The configuration of nano's own tower."""
    return SiglipVisionConfig(
        hidden_size=TOWER_WIDTH,
        intermediate_size=4 * TOWER_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=3,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        vision_use_head=False,
    )


def build_config(
    tokenizer: PreTrainedTokenizerFast,
    vision: SiglipVisionConfig,
    *,
    vocabulary: int,
    layers: int = 6,
    mlp: int = 512,
) -> LlavaOnevisionConfig:
    """The configuration of a small LLaVA-OneVision; nano by default: 2.9 M parameters.

    Args:
        tokenizer: knows the special tokens.
        vision: of the tower, whose frames have twice ``GRID`` patches on a side.
        vocabulary: rows of the embedding, at least the tokenizer's entries.
        layers: of the decoder.
        mlp: width of its feed-forward layers.
    """
    end_token, pad_token = tokenizer.eos_token_id, tokenizer.pad_token_id
    side = vision.image_size
    text = Qwen2Config(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=mlp,
        num_hidden_layers=layers,
        num_attention_heads=6,
        num_key_value_heads=2,
        max_position_embeddings=MAX_POSITIONS,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=end_token,
        pad_token_id=pad_token,
    )
    return LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[side, side]],
        vision_aspect_ratio="anyres_max_1",
        tie_word_embeddings=True,
        eos_token_id=end_token,
        pad_token_id=pad_token,
    )


def build_model(config: LlavaOnevisionConfig, seed: int) -> LlavaOnevisionForConditionalGeneration:
    """A new model in float32 whose initial weights depend on ``seed`` only.

    The tower's learned positions start as sines and cosines of row and column: from random
    ones, attention to "the patch below" took thousands of steps to appear.
    """
    torch.manual_seed(seed)
    model = LlavaOnevisionForConditionalGeneration(config)
    table = model.model.vision_tower.embeddings.position_embedding.weight
    with torch.no_grad():
        table.copy_(sine_positions(IMAGE_SIZE // PATCH_SIZE, TOWER_WIDTH))
    return model


def sine_positions(side: int, width: int) -> Tensor:
    """Positions of a square grid: ``(side * side, width)``, half the width for each axis."""
    frequency = 2.0 * 30.0 ** -(torch.arange(width // 4) / (width // 4 - 1))
    angle = torch.arange(side)[:, None] * frequency
    axis = torch.cat([angle.sin(), angle.cos()], dim=1)
    rows = axis[:, None].expand(side, side, -1)
    columns = axis[None, :].expand(side, side, -1)
    return torch.cat([rows, columns], dim=2).reshape(side * side, width)


class ReadOut(NamedTuple):
    """One linear read-out of a cell.

    Attributes:
        classes: how many there are.
        weight: of its loss.
        none: the class of cells without a needle; None if there is no such class.
    """

    classes: int
    weight: float
    none: int | None = None


NANO_READ_OUTS = {
    "digit": ReadOut(11, 1.0, none=10),
    "colour": ReadOut(7, 1.0, none=6),
    "quadrant": ReadOut(4, 0.3),
    "background": ReadOut(6, 0.3),
    "texture": ReadOut(5, 0.3),
    "landmark": ReadOut(2, 0.2),
    "relation": ReadOut(4, 0.4),
}


class CellHead(nn.Module):
    """Linear read-outs of one video token: what is in its cell (the columns of ``labels``).

    Trained with the tower so that the decoder finds these facts along straight directions;
    not part of the exported model.
    """

    def __init__(self, read_outs: Mapping[str, ReadOut] = NANO_READ_OUTS) -> None:
        super().__init__()
        self.read_outs = dict(read_outs)
        for name, read_out in read_outs.items():
            self.add_module(name, nn.Linear(WIDTH, read_out.classes))

    def forward(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """tokens ``(..., WIDTH)`` -> logits ``(..., classes)`` of each read-out."""
        return tuple(read_out(tokens) for read_out in self.children())


def normalise(frames: Tensor) -> Tensor:
    """uint8 ``(B, T, H, W, 3)`` -> float32 ``(B, T, 3, H, W)`` in [-1, 1], as in the processor."""
    return frames.permute(0, 1, 4, 2, 3).float().div_(127.5).sub_(1.0)


def video_tokens(model: LlavaOnevisionForConditionalGeneration, frames: Tensor) -> Tensor:
    """Make video tokens ``(B, T * GRID**2 + 1, WIDTH)``, the newline token last.

    Args:
        model: the model.
        frames: uint8 ``(B, T, H, W, 3)``; or what a frozen tower made of them, float
            ``(B, T, GRID**2, channels)``.
    """
    if frames.is_floating_point():
        cells = model.model.multi_modal_projector(frames).flatten(1, 2)
        return torch.cat([cells, model.model.image_newline.expand(len(cells), 1, -1)], dim=1)
    features = model.model.get_video_features(
        normalise(frames), vision_feature_layer=-1, vision_feature_select_strategy="full"
    )
    tokens: Tensor = features.pooler_output
    return tokens
