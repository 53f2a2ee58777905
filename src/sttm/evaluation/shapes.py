"""Models of published shapes with random weights, and prompts with a video for them."""

from dataclasses import dataclass
from typing import Any, Literal

import torch

from sttm.errors import ConfigError, unknown_name
from sttm.evaluation.checks import check_text
from sttm.models.transformers_api import PIXELS, VIDEO_GRID

WORDS_BEFORE, WORDS_AFTER = 14, 30
_VISION_WIDTH = 32


@dataclass(frozen=True)
class Shape:
    """The decoder of a published model, and how many tokens its frames become.

    Args:
        family: which transformers class.
        hidden, intermediate, layers, heads, kv_heads, vocabulary: of the decoder.
        layer: the published merging layer.
        grid: rows and columns of tokens per time step.
        frames_per_step: sampled frames that become one time step.
    """

    family: Literal["llava_onevision", "qwen2_5_vl"]
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    layer: int = 2
    grid: tuple[int, int] = (14, 14)
    frames_per_step: int = 1

    def video_tokens(self, frames: int) -> int:
        """Tokens of a video."""
        rows, columns = self.grid
        return -(-frames // self.frames_per_step) * rows * columns

    def operations(self, length: int, layers: int) -> float:
        """Floating-point operations of a prefill through some layers; causal attention.

        Two per multiply and add; projections, MLP, scores and weighted values. Left out: norms,
        softmax, the output layer (one token of a prefill needs it).
        """
        kv_width = self.hidden * self.kv_heads // self.heads
        dense = 2 * self.hidden * (2 * self.hidden + 2 * kv_width + 3 * self.intermediate)
        return layers * (length * dense + 2 * length**2 * self.hidden)

    def kv_bytes(self, length: int, itemsize: int) -> int:
        """Bytes of keys and values in all layers."""
        return 2 * self.layers * length * self.hidden * self.kv_heads // self.heads * itemsize


SHAPES = {
    "nano": Shape("llava_onevision", 192, 512, 6, 6, 2, 512, layer=0, grid=(8, 8)),
    "llava-onevision-0.5b": Shape("llava_onevision", 896, 4864, 24, 14, 2, 151_936),
    "llava-onevision-7b": Shape("llava_onevision", 3584, 18_944, 28, 28, 4, 152_064),
    "llava-video-72b": Shape("llava_onevision", 8192, 29_568, 80, 64, 8, 152_064, layer=0),
    # 504 x 896 pixels: 18 x 32 tokens for every two frames.
    "qwen2.5-vl-3b": Shape(
        "qwen2_5_vl", 2048, 11_008, 36, 16, 2, 151_936, grid=(18, 32), frames_per_step=2
    ),
    "qwen2.5-vl-7b": Shape(
        "qwen2_5_vl", 3584, 18_944, 28, 28, 4, 152_064, grid=(18, 32), frames_per_step=2
    ),
}


def find_shape(name: str) -> Shape:
    """Look a shape up.

    Raises:
        UnknownNameError: there is none of this name.
    """
    if check_text("shape", name, "nano") not in SHAPES:
        raise unknown_name("shape", name, SHAPES)
    return SHAPES[name]


def build(shape: Shape, device: torch.device, dtype: torch.dtype) -> Any:
    """Build the decoder behind a token-sized vision tower; weights are random, seed 0."""
    from transformers import AutoModelForImageTextToText

    config = _llava(shape) if shape.family == "llava_onevision" else _qwen(shape)
    torch.manual_seed(0)
    with device:
        return AutoModelForImageTextToText.from_config(config, dtype=dtype).eval()


def count_parameters(shape: Shape) -> int:
    """Count the weights without making them."""
    model = build(shape, torch.device("meta"), torch.float32)
    return sum(weight.numel() for weight in model.parameters())


def prompt(model: Any, shape: Shape, frames: int) -> dict[str, torch.Tensor]:
    """Write 14 words, the video and 30 words, with random pixels."""
    tokens, device = shape.video_tokens(frames), model.device
    steps, (rows, columns) = -(-frames // shape.frames_per_step), shape.grid
    video, generator = model.config.video_token_id, torch.Generator().manual_seed(0)
    pixels: dict[str, torch.Tensor]
    if shape.family == "llava_onevision":
        ids = [*range(10, 24), *[video] * (tokens + 1), *range(30, 60)]  # one more: the newline
        size = 2 * rows - 1
        noise = torch.rand(1, steps, 3, size, size, generator=generator)
        pixels = {PIXELS["video"]: noise}
    else:
        start, end = model.config.vision_start_token_id, model.config.vision_end_token_id
        ids = [*range(10, 23), start, *[video] * tokens, end, *range(30, 59)]
        noise = torch.rand(4 * tokens, 3 * 2 * 2 * 2, generator=generator)
        pixels = {
            PIXELS["video"]: noise,
            VIDEO_GRID: torch.tensor([[steps, 2 * rows, 2 * columns]]),
            "mm_token_type_ids": 2 * torch.tensor([ids]).eq(video).int(),
        }
    pixels[PIXELS["video"]] = noise.to(model.dtype)
    inputs = {"input_ids": torch.tensor([ids]), **pixels}
    return {name: value.to(device) for name, value in inputs.items()}


def _llava(shape: Shape) -> Any:
    from transformers import LlavaOnevisionConfig, Qwen2Config, SiglipVisionConfig

    rows, columns = shape.grid
    if rows != columns:
        raise ConfigError(f"shape: got a grid of {rows}x{columns}, expected a square one.")
    vision = SiglipVisionConfig(
        hidden_size=_VISION_WIDTH,
        intermediate_size=_VISION_WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=2 * rows - 1,  # one pixel per patch; LLaVA halves the patches and rounds up
        patch_size=1,
        vision_use_head=False,
    )
    text = Qwen2Config(**_decoder(shape), rope_parameters=_rope({}))
    return LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        vision_feature_layer=-1,
        image_token_index=shape.vocabulary - 2,
        video_token_index=shape.vocabulary - 1,
        tie_word_embeddings=True,
    )


def _qwen(shape: Shape) -> Any:
    from transformers import Qwen2_5_VLConfig

    half = shape.hidden // shape.heads // 2
    sections = [half // 4, half * 3 // 8, half - half // 4 - half * 3 // 8]
    special = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    return Qwen2_5_VLConfig(
        vision_config={
            "depth": 1,
            "hidden_size": _VISION_WIDTH,
            "intermediate_size": _VISION_WIDTH,
            "num_heads": 2,
            "out_hidden_size": shape.hidden,
            "patch_size": 2,
            "temporal_patch_size": 2,
            "window_size": 16,
            "fullatt_block_indexes": [0],
        },
        text_config={**_decoder(shape), "rope_parameters": _rope({"mrope_section": sections})},
        tie_word_embeddings=True,
        **{name: shape.vocabulary - 1 - place for place, name in enumerate(special)},
    )


def _decoder(shape: Shape) -> dict[str, Any]:
    return {
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": 2**20,
        "bos_token_id": None,
        "eos_token_id": 2,
        "pad_token_id": 0,
        # One matrix for input and output: the prefill needs only one row of the output.
        "tie_word_embeddings": True,
    }


def _rope(more: dict[str, Any]) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 1e6, **more}
