"""Models of published shapes with random weights, and prompts with a video for them."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from sttm.errors import ConfigError, unknown_name
from sttm.evaluation.checks import check_text
from sttm.models.transformers_api import PIXELS, VIDEO_GRID

WORDS_BEFORE, WORDS_AFTER = 14, 30
_VISION_WIDTH = 32


@dataclass(frozen=True)
class TowerShape:
    """The vision tower of a published model; each time step is encoded by itself.

    Args:
        hidden, intermediate, layers, heads: of its transformer.
        image: rows and columns of pixels of a frame.
        patch: rows and columns of pixels of a patch.
        gated: whether the MLP has a gate, so three matrices and not two.
        full: the layers in which all patches see each other; None: all. In the others those of
            a window do, 8 x 8 patches.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    image: tuple[int, int] = (384, 384)
    patch: int = 14
    gated: bool = False
    full: tuple[int, ...] | None = None

    @property
    def patches(self) -> int:
        """Patches of a time step."""
        return (self.image[0] // self.patch) * (self.image[1] // self.patch)

    def operations(self) -> float:
        """Floating-point operations of one time step; counted as those of `Shape`."""
        full = self.layers if self.full is None else len(self.full)
        seen = full * self.patches + (self.layers - full) * _WINDOW**2
        return (
            2 * self.patches * self.layers * self._weights + 4 * self.patches * seen * self.hidden
        )

    def parameters(self) -> int:
        """Weights of its matrices."""
        return self.layers * self._weights

    @property
    def _weights(self) -> int:
        return self.hidden * (4 * self.hidden + (2 + self.gated) * self.intermediate)


_WINDOW = 8  # rows and columns of patches
SIGLIP = TowerShape(1152, 4304, 26, 16)  # so400m, less its last layer, which LLaVA does not use
QWEN2_5 = TowerShape(1280, 3420, 32, 16, (504, 896), gated=True, full=(7, 15, 23, 31))


@dataclass(frozen=True)
class Shape:
    """The decoder of a published model, and how many tokens its frames become.

    Args:
        family: which transformers class.
        hidden, intermediate, layers, heads, kv_heads, vocabulary: of the decoder.
        layer: the published merging layer.
        grid: rows and columns of tokens per time step.
        frames_per_step: sampled frames that become one time step.
        tower: its vision tower.
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
    tower: TowerShape = SIGLIP

    def steps(self, frames: int) -> int:
        """Time steps of a video."""
        return -(-frames // self.frames_per_step)

    def video_tokens(self, frames: int) -> int:
        """Tokens of a video."""
        rows, columns = self.grid
        return self.steps(frames) * rows * columns

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
    "nano": Shape(
        *("llava_onevision", 192, 512, 6, 6, 2, 512),
        layer=0,
        grid=(8, 8),
        tower=TowerShape(96, 384, 3, 3, (128, 128), 8),
    ),
    "llava-onevision-0.5b": Shape("llava_onevision", 896, 4864, 24, 14, 2, 151_936),
    "llava-onevision-7b": Shape("llava_onevision", 3584, 18_944, 28, 28, 4, 152_064),
    "llava-video-72b": Shape("llava_onevision", 8192, 29_568, 80, 64, 8, 152_064, layer=0),
    # 504 x 896 pixels: 18 x 32 tokens for every two frames.
    "qwen2.5-vl-3b": Shape(
        *("qwen2_5_vl", 2048, 11_008, 36, 16, 2, 151_936),
        grid=(18, 32),
        frames_per_step=2,
        tower=QWEN2_5,
    ),
    "qwen2.5-vl-7b": Shape(
        *("qwen2_5_vl", 3584, 18_944, 28, 28, 4, 152_064),
        grid=(18, 32),
        frames_per_step=2,
        tower=QWEN2_5,
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
    return _build(
        _llava(shape) if shape.family == "llava_onevision" else _qwen(shape), device, dtype
    )


def build_tower(shape: Shape, device: torch.device, dtype: torch.dtype) -> Any:
    """Build the vision tower in front of a decoder of one layer and few words, seed 0."""
    from transformers import PretrainedConfig

    small, tower = replace(shape, layers=1, vocabulary=1024), shape.tower
    same = {"hidden_size": tower.hidden, "intermediate_size": tower.intermediate}
    config: PretrainedConfig
    if shape.family == "llava_onevision":
        config, names = _llava(small), ("num_hidden_layers", "num_attention_heads")
        more: dict[str, Any] = {"image_size": tower.image[0]}
    else:
        config, names = _qwen(small), ("depth", "num_heads")
        more = {
            "window_size": _WINDOW * tower.patch,
            "fullatt_block_indexes": list(tower.full or ()),
        }
    sizes = {
        **same,
        **more,
        "patch_size": tower.patch,
        **dict(zip(names, (tower.layers, tower.heads))),
    }
    for name, value in sizes.items():
        setattr(config.vision_config, name, value)
    return _build(config, device, dtype)


def video_processor(shape: Shape) -> Any:
    """Build the part of the published processor that makes pixels of frames."""
    from transformers import LlavaOnevisionVideoProcessor, Qwen2VLVideoProcessor

    rows, columns = shape.tower.image
    if shape.family == "llava_onevision":
        return LlavaOnevisionVideoProcessor(size={"height": rows, "width": columns})
    area = {"shortest_edge": rows * columns, "longest_edge": rows * columns}
    return Qwen2VLVideoProcessor(size=area, patch_size=shape.tower.patch)


def _build(config: Any, device: torch.device, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForImageTextToText

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
    steps, (rows, columns) = shape.steps(frames), shape.grid
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
