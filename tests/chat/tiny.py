"""Tiny random video chat models with real processors: real classes, no download."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForImageTextToText, PreTrainedTokenizerFast

from tests.models import configs

MARKS = {
    "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>",
    "vision_start_token": "<|vision_start|>",
    "vision_end_token": "<|vision_end|>",
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
}
_GLM = (
    "<|image|>",
    "<|video|>",
    "<|begin_of_image|>",
    "<|end_of_image|>",
    "<|begin_of_video|>",
    "<|end_of_video|>",
)
START, END = "<|im_start|>", "<|im_end|>"
_TURNS = """\
{%- for message in messages -%}
<|im_start|>{{ message['role'] + '\\n' -}}
{%- for part in message['content'] -%}
{{ 'VIDEO' if part['type'] == 'video' else part['text'] -}}
{%- endfor -%}
{{ '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' -}}{%- endif -%}
"""
_WRAPPED = _TURNS.replace("VIDEO", "<|vision_start|><|video_pad|><|vision_end|>")
_LINE = _TURNS.replace("VIDEO", "<|video_pad|>\\n")
_MARKED = _TURNS.replace("VIDEO", "<|begin_of_video|><|video|><|end_of_video|>")
_PATCHES = {"patch_size": 2, "temporal_patch_size": 2, "merge_size": 2}
_PIXELS = {"shortest_edge": 16, "longest_edge": 4096}


def tokenizer(marks: Mapping[str, str] = MARKS, *others: str) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer: one id per byte, and the marks."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<|pad|>",
        eos_token=END,
        extra_special_tokens=dict(marks),
        clean_up_tokenization_spaces=False,
    )
    fast.add_special_tokens(
        {"additional_special_tokens": [START, *others]}, replace_extra_special_tokens=False
    )
    return fast


def _qwen(name: str) -> Any:
    """Build the processor of a Qwen family."""
    own = "Qwen3VL" if name == "Qwen3VL" else "Qwen2VL"
    frames = getattr(transformers, f"{own}VideoProcessor")(size=_PIXELS, **_PATCHES)
    images = transformers.Qwen2VLImageProcessor(size=_PIXELS, **_PATCHES)
    return getattr(transformers, f"{name}Processor")(images, tokenizer(), frames, _WRAPPED)


def _llava() -> Any:
    size = {"height": 10, "width": 10}
    return transformers.LlavaOnevisionProcessor(
        transformers.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=[[10, 10]]),
        tokenizer(),
        transformers.LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=25,
        vision_feature_select_strategy="full",
        chat_template=_LINE,
    )


def _llava_next_video() -> Any:
    size = {"height": 12, "width": 12}
    return transformers.LlavaNextVideoProcessor(
        video_processor=transformers.LlavaNextVideoVideoProcessor(size=size, crop_size=size),
        image_processor=transformers.LlavaNextImageProcessor(size=size, crop_size=size),
        tokenizer=tokenizer(),
        patch_size=2,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<|image_pad|>",
        video_token="<|video_pad|>",
        chat_template=_LINE,
    )


def _glm4v() -> Any:
    """Build GLM-4V's processor, whose marks have names of their own."""
    size = {"shortest_edge": 16, "longest_edge": 4096}
    return transformers.Glm4vProcessor(
        transformers.Glm4vImageProcessor(size=size, **_PATCHES),
        tokenizer({}, *_GLM),
        transformers.Glm4vVideoProcessor(size=size, **_PATCHES),
        _MARKED,
    )


def _internvl() -> Any:
    size = {"height": 12, "width": 12}
    return transformers.InternVLProcessor(
        transformers.GotOcr2ImageProcessor(size=size),
        tokenizer(),
        transformers.InternVLVideoProcessor(size=size),
        image_seq_length=9,
        chat_template=_LINE,
    )


_PROCESSORS: dict[str, Callable[[], Any]] = {
    "llava_onevision": _llava,
    "qwen2_5_vl": lambda: _qwen("Qwen2_5_VL"),
    "qwen3_vl": lambda: _qwen("Qwen3VL"),
    "qwen3_5": lambda: _qwen("Qwen3VL"),
    "internvl": _internvl,
    "llava_next_video": _llava_next_video,
    "glm4v": _glm4v,
}
FAMILIES = ("llava_onevision", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "internvl")


@dataclass(frozen=True)
class Bundle:
    """A model and its processor."""

    model: Any
    processor: Any


@cache
def bundle(name: str) -> Bundle:
    """Build the tiny model of a family so that its vocabulary fits the tokenizer."""
    processor = _PROCESSORS[name]()
    words = processor.tokenizer
    config = getattr(configs, name)()
    config.text_config.vocab_size = len(words)
    ids = {mark: words.convert_tokens_to_ids(text) for mark, text in MARKS.items()}
    if name == "glm4v":
        names = ("image", "video", "image_start", "image_end", "video_start", "video_end")
        found = zip(names, words.convert_tokens_to_ids(list(_GLM)), strict=True)
        ids = {f"{mark}_token": token for mark, token in found}
        for mark in names:
            setattr(config, f"{mark}_token_id", ids[f"{mark}_token"])
    image = "context_image_token" if name == "internvl" else "image_token"
    config.image_token_id = ids[image]
    config.text_config.pad_token_id = words.pad_token_id
    for mark in ("video_token", "vision_start_token", "vision_end_token"):
        if hasattr(config, f"{mark}_id"):
            setattr(config, f"{mark}_id", ids[mark])
    return build(config, processor)


def build(config: Any, processor: Any) -> Bundle:
    """Make the model of a configuration, with random weights large enough to tell answers apart."""
    words = processor.tokenizer
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.ndim >= 2:
            torch.nn.init.normal_(parameter, std=0.2)
    model.generation_config.eos_token_id = words.eos_token_id
    model.generation_config.pad_token_id = words.pad_token_id
    return Bundle(model, processor)


def clip(frames: int = 8, seed: int = 0) -> Any:
    """Frames ``(T, 12, 12, 3)`` uint8 in which half of the picture stands still."""
    rng = np.random.default_rng(seed)
    video = np.repeat(rng.integers(0, 255, (1, 12, 12, 3), dtype=np.uint8), frames, axis=0)
    video[:, :, :6] = rng.integers(0, 255, (frames, 12, 6, 3), dtype=np.uint8)
    return video
