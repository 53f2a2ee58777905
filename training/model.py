"""The shape of nano: a SigLIP tower, a two-layer projector and a Qwen2 decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import (
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2Config,
    SiglipVisionConfig,
)

IMAGE_SIZE = 128
PATCH_SIZE = 8
GRID = IMAGE_SIZE // PATCH_SIZE // 2  # side of the pooled grid of one frame, in tokens
TOWER_WIDTH = 96
WIDTH = 192
MAX_POSITIONS = 8192


def build_config(
    vocab_size: int, *, image_token: int, video_token: int, end_token: int, pad_token: int
) -> LlavaOnevisionConfig:
    """The configuration of nano: 2.9 M parameters, 64 tokens per frame."""
    vision = SiglipVisionConfig(
        hidden_size=TOWER_WIDTH,
        intermediate_size=4 * TOWER_WIDTH,
        num_hidden_layers=3,
        num_attention_heads=3,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        vision_use_head=False,
    )
    text = Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=WIDTH,
        intermediate_size=512,
        num_hidden_layers=6,
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
        image_token_index=image_token,
        video_token_index=video_token,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_grid_pinpoints=[[IMAGE_SIZE, IMAGE_SIZE]],
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


class CellHead(nn.Module):
    """Linear read-outs of one video token: what is in its cell (the columns of ``labels``).

    Trained with the tower so that the decoder finds these facts along straight directions;
    not part of the exported model.
    """

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.digit = nn.Linear(width, 11)
        self.colour = nn.Linear(width, 7)
        self.quadrant = nn.Linear(width, 4)
        self.background = nn.Linear(width, 6)
        self.texture = nn.Linear(width, 5)
        self.landmark = nn.Linear(width, 2)
        self.relation = nn.Linear(width, 4)

    def forward(self, tokens: Tensor) -> tuple[Tensor, ...]:
        """tokens ``(..., width)`` -> logits ``(..., classes)`` of the seven read-outs."""
        return tuple(read_out(tokens) for read_out in self.children())


def normalise(frames: Tensor) -> Tensor:
    """uint8 ``(B, T, H, W, 3)`` -> float32 ``(B, T, 3, H, W)`` in [-1, 1], as in the processor."""
    return frames.permute(0, 1, 4, 2, 3).float().div_(127.5).sub_(1.0)


def video_tokens(model: LlavaOnevisionForConditionalGeneration, frames: Tensor) -> Tensor:
    """uint8 frames ``(B, T, H, W, 3)`` -> ``(B, T * GRID**2 + 1, WIDTH)``, newline token last."""
    features = model.model.get_video_features(
        normalise(frames), vision_feature_layer=-1, vision_feature_select_strategy="full"
    )
    tokens: Tensor = features.pooler_output
    return tokens
