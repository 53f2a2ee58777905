"""The same decoder with Qwen2.5-VL's positions: time, row and column of a video token (M-RoPE)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    LlavaOnevisionForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    Qwen2Config,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)
from transformers.modeling_outputs import BaseModelOutputWithPooling

from sttm.chat import PrefilledVideo
from training.model import GRID
from training.packing import Packed
from training.real.clips import SIZE
from training.real.tower import LiteTower, placed
from training.text import CHAT_TEMPLATE

MROPE = "mrope"  # name of the stage that trains it
SECTIONS = (4, 6, 6)  # rotary pairs of time, row and column: Qwen2.5-VL's shares of 16
TOKENS_PER_SECOND = 2  # as in Qwen2.5-VL; frames are a second apart
PATCH = SIZE // GRID  # one patch is one token


def mrope_config(text: Qwen2Config) -> Qwen2_5_VLTextConfig:
    """Describe the decoder with three axes of positions."""
    same = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    heads = ("num_attention_heads", "num_key_value_heads", "max_position_embeddings")
    rope = {"rope_type": "default", "mrope_section": list(SECTIONS)}
    return Qwen2_5_VLTextConfig(
        **{name: getattr(text, name) for name in (*same, *heads)},
        rope_parameters={**rope, "rope_theta": text.rope_parameters["rope_theta"]},
        tie_word_embeddings=True,
        pad_token_id=text.pad_token_id,
        bos_token_id=None,
        eos_token_id=text.eos_token_id,
    )


def give_mrope(model: LlavaOnevisionForConditionalGeneration) -> None:
    """Exchange the decoder, in place, for one with M-RoPE and the same weights.

    To text both are the same, as Qwen2-VL began at Qwen2; the video has to be learned again.
    """
    decoder = Qwen2_5_VLTextModel(mrope_config(model.model.language_model.config))
    decoder.load_state_dict(model.model.language_model.state_dict())
    model.model.language_model = decoder
    model.tie_weights()


def with_mrope(packed: Packed, slots: Sequence[Sequence[int]]) -> Packed:
    """Give a packed batch M-RoPE positions, and leave the newline token out.

    Text begins behind the longer side of a frame, wherever time ends, as transformers counts.

    Args:
        packed: with one number for each position.
        slots: see `training.ask.Packer.pack`.

    Returns:
        the batch with positions ``(3, B, P + V)`` and ``(3, B, Q)``.
    """
    prefix = len(packed.prefix)
    side = torch.arange(GRID)
    before = torch.arange(prefix).expand(3, -1)
    context = []
    for places in slots:
        times = TOKENS_PER_SECOND * torch.tensor(places[:-1])
        axes = torch.meshgrid(times, side, side, indexing="ij")
        video = prefix + torch.stack([axis.flatten() for axis in axes])
        context.append(torch.cat([before, video], dim=1))
    ends = torch.tensor([places[-1] for places in slots])[:, None] * GRID**2
    positions = packed.positions - ends - 1 + GRID
    return replace(
        packed,
        context_positions=torch.stack(context, dim=1),
        positions=positions.expand(3, -1, -1),
    )


class PatchTower(nn.Module):
    """Tower and projector in the place of Qwen2.5-VL's vision model.

    Args:
        tower: the frozen encoder.
        projector: that was trained with the decoder.
    """

    spatial_merge_size = 1
    dtype = torch.float32

    def __init__(self, tower: LiteTower, projector: nn.Module) -> None:
        super().__init__()
        self.tower, self.projector = tower, projector

    def forward(self, patches: Tensor, **_: Any) -> BaseModelOutputWithPooling:
        """Encode the patches ``(T * GRID**2, 3 * PATCH**2)`` of whole frames."""
        x = patches.view(-1, GRID, GRID, 3, PATCH, PATCH).permute(0, 3, 1, 4, 2, 5)
        cells = placed(self.tower.encode(x.reshape(-1, 3, SIZE, SIZE)))
        return BaseModelOutputWithPooling(pooler_output=self.projector(cells).flatten(0, 1))


def place_question(video: PrefilledVideo) -> PrefilledVideo:
    """Let questions begin where transformers puts text: behind the longer side of a frame.

    A chat goes on behind the largest position, and here that is the time of the last frame. Both
    agree where a token stands behind the video, as in Qwen's own template. Reassigned positions
    are counted from the end of the video in any case.
    """
    qwen = isinstance(video.chat.model, Qwen2_5_VLForConditionalGeneration)
    if not qwen or video.positions == "reassigned":
        return video
    return replace(video, next_position=len(video.ids) - video.tokens_in + GRID)


def mrope_model(
    trained: LlavaOnevisionForConditionalGeneration,
    weights: Mapping[str, Tensor],
    tokenizer: PreTrainedTokenizerFast,
) -> Qwen2_5_VLForConditionalGeneration:
    """Build the model as a Qwen2.5-VL of transformers.

    Args:
        trained: a model of the same shape.
        weights: of a checkpoint of the stage `MROPE`.
        tokenizer: knows the special tokens.
    """
    give_mrope(trained)
    trained.load_state_dict(weights)
    config = Qwen2_5_VLConfig(
        text_config=trained.model.language_model.config.to_dict(),
        vision_config={
            **{"depth": 1, "hidden_size": 16, "num_heads": 1, "intermediate_size": 16},
            **{"out_hidden_size": trained.config.text_config.hidden_size, "patch_size": PATCH},
            **{"spatial_merge_size": 1, "temporal_patch_size": 1},
            **{"tokens_per_second": TOKENS_PER_SECOND, "fullatt_block_indexes": [0]},
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
        tie_word_embeddings=True,
    )
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.model.visual = PatchTower(LiteTower(), trained.model.multi_modal_projector)
    model.model.language_model.load_state_dict(trained.model.language_model.state_dict())
    model.tie_weights()
    return model


def mrope_processor(
    tokenizer: PreTrainedTokenizerFast, mean: float, deviation: float
) -> Qwen2_5_VLProcessor:
    """Build the processor: a token for every 32 x 32 pixels of every frame."""
    options: dict[str, Any] = {
        **{"patch_size": PATCH, "merge_size": 1, "temporal_patch_size": 1},
        **{"image_mean": [mean] * 3, "image_std": [deviation] * 3},
        "size": {"shortest_edge": SIZE**2, "longest_edge": SIZE**2},
    }
    return Qwen2_5_VLProcessor(
        Qwen2VLImageProcessor(**options),
        tokenizer,
        Qwen2VLVideoProcessor(**options, cap_pixels_per_frame=False),
        chat_template=CHAT_TEMPLATE,
    )
