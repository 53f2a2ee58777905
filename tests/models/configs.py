"""Configurations of tiny video LLMs: real classes, a few thousand parameters, no download."""

from typing import Any

import transformers
from transformers import PretrainedConfig

VOCAB = 160
PAD = 0
TEXT = range(10, 130)  # ids of ordinary words
IMAGE_TOKEN = 140
VIDEO_TOKEN = 141
VISION_START = 142
VISION_END = 143
BEGIN_VIDEO = 144
END_VIDEO = 145
GLOBAL_IMAGE = 146
TILES = (147, 148)
HIDDEN = 64
LAYERS = 5
PATCH = 2

_TEXT: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": 96,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": None,
    "tie_word_embeddings": False,
}
_TOKENS = {"image_token_id": IMAGE_TOKEN, "video_token_id": VIDEO_TOKEN}
_MARKS = {"vision_start_token_id": VISION_START, "vision_end_token_id": VISION_END}


def _text(**more: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 200.0}
    return {**_TEXT, "rope_parameters": rope, **more}


def _mrope(section: list[int], **more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 200.0, "mrope_section": section, **more}


def _square_vision(image_size: int, **more: Any) -> dict[str, Any]:
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2}
    return {**sizes, "num_hidden_layers": 2, "image_size": image_size, "patch_size": PATCH, **more}


def _patch_vision(**more: Any) -> dict[str, Any]:
    sizes = {"depth": 2, "num_heads": 2, "patch_size": PATCH, "temporal_patch_size": 2}
    return {**sizes, "spatial_merge_size": 2, **more}


def llava_onevision() -> PretrainedConfig:
    """5x5 patches pooled to 3x3 tokens per frame, and one newline after a video."""
    return transformers.LlavaOnevisionConfig(
        vision_config=_square_vision(10, model_type="siglip_vision_model", vision_use_head=False),
        text_config=_text(model_type="qwen2"),
        image_token_index=IMAGE_TOKEN,
        video_token_index=VIDEO_TOKEN,
        image_grid_pinpoints=[[10, 10]],
    )


def llava_next_video() -> PretrainedConfig:
    """6x6 patches pooled to 3x3 tokens per frame."""
    return transformers.LlavaNextVideoConfig(
        vision_config=_square_vision(12, model_type="clip_vision_model", projection_dim=8),
        text_config=_text(model_type="llama"),
        image_token_index=IMAGE_TOKEN,
        video_token_index=VIDEO_TOKEN,
        image_grid_pinpoints=[[12, 12]],
    )


def qwen2_vl() -> PretrainedConfig:
    """M-RoPE, one run of tokens per video."""
    return transformers.Qwen2VLConfig(
        vision_config=_patch_vision(embed_dim=16, hidden_size=HIDDEN),
        text_config=_text(rope_parameters=_mrope([2, 3, 3])),
        **_TOKENS,
        **_MARKS,
    )


def qwen2_5_vl() -> PretrainedConfig:
    """M-RoPE whose time axis runs faster than the frames."""
    vision = _patch_vision(hidden_size=16, out_hidden_size=HIDDEN, intermediate_size=24)
    return transformers.Qwen2_5_VLConfig(
        vision_config={
            **vision,
            "tokens_per_second": 2,
            "window_size": 8,
            "fullatt_block_indexes": [1],
        },
        text_config=_text(rope_parameters=_mrope([2, 3, 3])),
        **_TOKENS,
        **_MARKS,
    )


def qwen3_vl() -> PretrainedConfig:
    """DeepStack into layers 0, 1 and 2, interleaved M-RoPE, one run of tokens per frame."""
    vision = _patch_vision(hidden_size=16, out_hidden_size=HIDDEN, intermediate_size=24)
    return transformers.Qwen3VLConfig(
        vision_config={
            **vision,
            "depth": 3,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1, 2],
        },
        text_config=_text(head_dim=16, rope_parameters=_mrope([3, 3, 2], mrope_interleaved=True)),
        **_TOKENS,
        **_MARKS,
    )


def qwen3_5() -> PretrainedConfig:
    """Linear attention in most layers, so the cache reports the length of layer 2, not 0."""
    vision = _patch_vision(hidden_size=16, out_hidden_size=HIDDEN, intermediate_size=24)
    linear, full = "linear_attention", "full_attention"
    return transformers.Qwen3_5Config(
        vision_config={**vision, "num_position_embeddings": 16},
        text_config=_text(
            head_dim=16,
            layer_types=[linear, linear, full, linear, full],
            linear_key_head_dim=8,
            linear_value_head_dim=8,
            linear_num_key_heads=2,
            linear_num_value_heads=4,
            rope_parameters=_mrope([2, 1, 1], mrope_interleaved=True, partial_rotary_factor=0.5),
        ),
        **_TOKENS,
        **_MARKS,
    )


def glm4v() -> PretrainedConfig:
    """Frames of a video are written with the image token, between two video marks."""
    vision = _patch_vision(hidden_size=16, out_hidden_size=HIDDEN, intermediate_size=24)
    return transformers.Glm4vConfig(
        vision_config={**vision, "image_size": 16},
        text_config=_text(rope_parameters=_mrope([2, 3, 3])),
        image_start_token_id=VISION_START,
        image_end_token_id=VISION_END,
        video_start_token_id=BEGIN_VIDEO,
        video_end_token_id=END_VIDEO,
        **_TOKENS,
    )


def internvl() -> PretrainedConfig:
    """A video is a row of single-tile images of 3x3 tokens each."""
    return transformers.InternVLConfig(
        vision_config=_square_vision(12),
        text_config=_text(model_type="qwen2"),
        image_token_id=IMAGE_TOKEN,
        image_seq_length=9,
        tie_word_embeddings=False,
    )


def smolvlm() -> PretrainedConfig:
    """A video is a row of images of 3x3 tokens each, every one after its time stamp."""
    return transformers.SmolVLMConfig(
        vision_config=_square_vision(12),
        text_config=_text(model_type="llama"),
        image_token_id=IMAGE_TOKEN,
        scale_factor=2,
    )


def video_llama_3() -> PretrainedConfig:
    """1-D RoPE; the processor may have dropped tokens that did not change between frames."""
    return transformers.VideoLlama3Config(
        vision_config={**_square_vision(12), "model_type": "video_llama_3_vision"},
        text_config=_text(model_type="qwen2"),
        **_TOKENS,
    )
