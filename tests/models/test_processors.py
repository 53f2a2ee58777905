"""The prompts of the tests have the layout that the library's own processors write."""

import string
from collections.abc import Callable
from itertools import groupby
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.video_utils import VideoMetadata

from sttm import attach

from . import configs
from .families import BY_NAME, shared_model
from .layouts import Row, Text, Video
from .methods import PairMerge

pytestmark = pytest.mark.usefixtures("no_gradients")


def tokenizer(special: dict[str, int], **named: str) -> Any:
    """One token per character, and the special tokens at the ids of the tiny configurations."""
    vocabulary = {char: configs.TEXT.start + i for i, char in enumerate(string.printable)}
    vocabulary |= {"<pad>": configs.PAD, "<unk>": 2}
    backend = Tokenizer(models.WordLevel(vocabulary | special, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    backend.add_special_tokens(list(special))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens=named,
        padding_side="left",
    )


_PATCHES = {"patch_size": 2, "merge_size": 2, "temporal_patch_size": 2, "do_resize": False}
_QWEN = {
    "<|image_pad|>": configs.IMAGE_TOKEN,
    "<|video_pad|>": configs.VIDEO_TOKEN,
    "<|vision_start|>": configs.VISION_START,
    "<|vision_end|>": configs.VISION_END,
}
_GLM = {
    "<|image|>": configs.IMAGE_TOKEN,
    "<|video|>": configs.VIDEO_TOKEN,
    "<|begin_of_image|>": configs.VISION_START,
    "<|end_of_image|>": configs.VISION_END,
    "<|begin_of_video|>": configs.BEGIN_VIDEO,
    "<|end_of_video|>": configs.END_VIDEO,
}
_LLAVA = {"<image>": configs.IMAGE_TOKEN, "<video>": configs.VIDEO_TOKEN}


def qwen2_vl() -> Any:
    return transformers.Qwen2VLProcessor(
        transformers.Qwen2VLImageProcessor(**_PATCHES),
        tokenizer(_QWEN),
        transformers.Qwen2VLVideoProcessor(**_PATCHES),
    )


def qwen3_vl() -> Any:
    return transformers.Qwen3VLProcessor(
        transformers.Qwen2VLImageProcessor(**_PATCHES),
        tokenizer(_QWEN),
        transformers.Qwen3VLVideoProcessor(**_PATCHES),
    )


def glm4v() -> Any:
    return transformers.Glm4vProcessor(
        transformers.Glm4vImageProcessor(**_PATCHES),
        tokenizer(_GLM),
        transformers.Glm4vVideoProcessor(**_PATCHES),
    )


def llava_onevision() -> Any:
    size = {"height": 10, "width": 10}
    return transformers.LlavaOnevisionProcessor(
        transformers.LlavaOnevisionImageProcessor(size=size),
        tokenizer(_LLAVA),
        transformers.LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=25,
        vision_feature_select_strategy="full",
    )


def llava_next_video() -> Any:
    size = {"height": 12, "width": 12}
    return transformers.LlavaNextVideoProcessor(
        video_processor=transformers.LlavaNextVideoVideoProcessor(size=size, crop_size=size),
        image_processor=transformers.LlavaNextImageProcessor(size=size, crop_size=size),
        tokenizer=tokenizer(_LLAVA),
        patch_size=2,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def internvl() -> Any:
    size = {"height": 12, "width": 12}
    names = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    ids = [configs.VISION_START, configs.VISION_END, configs.IMAGE_TOKEN, configs.VIDEO_TOKEN]
    return transformers.InternVLProcessor(
        transformers.GotOcr2ImageProcessor(size=size),
        tokenizer(dict(zip(names.values(), ids, strict=True)), **names),
        transformers.InternVLVideoProcessor(size=size),
        image_seq_length=9,
    )


def smolvlm() -> Any:
    size = {"longest_edge": 12}
    special = {
        "<image>": configs.IMAGE_TOKEN,
        "<video>": configs.VIDEO_TOKEN,
        "<fake_token_around_image>": configs.VISION_START,
        "<global-img>": configs.GLOBAL_IMAGE,
        "<end_of_utterance>": configs.END_VIDEO,
    }
    return transformers.SmolVLMProcessor(
        transformers.SmolVLMImageProcessor(size=size, max_image_size=size),
        tokenizer(special),
        transformers.SmolVLMVideoProcessor(size=size, max_image_size=size),
        image_seq_len=9,
    )


def video_llama_3() -> Any:
    return transformers.VideoLlama3Processor(
        transformers.VideoLlama3ImageProcessor(patch_size=2, merge_size=2, do_resize=False),
        tokenizer({"<|image_pad|>": configs.IMAGE_TOKEN, "<|video_pad|>": configs.VIDEO_TOKEN}),
        transformers.VideoLlama3VideoProcessor(patch_size=2, merge_size=2, do_resize=False),
    )


# processor, its placeholder in the text, frames, and pixels of one frame of a clip of 3 time steps
CASES: dict[str, tuple[Callable[[], Any], str, tuple[int, int, int]]] = {
    "qwen2_vl": (qwen2_vl, "<|vision_start|><|video_pad|><|vision_end|>", (6, 8, 12)),
    "qwen3_vl": (qwen3_vl, "<|vision_start|><|video_pad|><|vision_end|>", (6, 8, 12)),
    "glm4v": (glm4v, "<|begin_of_video|><|video|><|end_of_video|>", (6, 8, 12)),
    "llava_onevision": (llava_onevision, "<video>", (3, 10, 10)),
    "llava_next_video": (llava_next_video, "<video>", (3, 12, 12)),
    "internvl": (internvl, "<video>", (3, 12, 12)),
    "smolvlm": (smolvlm, "<video>", (3, 12, 12)),
    "video_llama_3": (video_llama_3, "<|video_pad|>", (3, 8, 12)),
}


def outline(ids: torch.Tensor) -> list[tuple[int, int]]:
    """Special tokens with their run lengths; any number of ordinary words is one."""
    words = [0 if int(i) in range(configs.PAD, configs.IMAGE_TOKEN) else int(i) for i in ids]
    runs = [(token, len(list(run))) for token, run in groupby(words)]
    return [(token, length if token else 1) for token, length in runs]


@pytest.mark.parametrize("name", CASES)
def test_layout_of_the_real_processor(name: str) -> None:
    make, placeholder, (frames, height, width) = CASES[name]
    clip = torch.randint(0, 256, (frames, 3, height, width), dtype=torch.uint8)
    metadata = VideoMetadata(
        total_num_frames=frames, fps=2.0, frames_indices=list(range(frames)), duration=frames / 2
    )
    got = make()(
        text=[f"Look: {placeholder} What is it?"],
        videos=[[clip]],
        video_metadata=[[metadata]],
        return_tensors="pt",
    )
    row: Row = (Text(4), Video(3), Text(5, seed=1))
    family, model = BY_NAME[name], shared_model(name)
    ours = family.make_inputs(row)
    wanted = ours.tensors
    assert outline(got["input_ids"][0]) == outline(wanted["input_ids"][0])
    for key, value in wanted.items():
        if key not in ("input_ids", "attention_mask", "mm_token_type_ids"):
            assert got[key].shape == value.shape, key
            assert key.startswith("pixel") or torch.equal(got[key], value), key
    tensors = {key: value for key, value in got.items() if isinstance(value, torch.Tensor)}
    with attach(model, PairMerge(), layer=1) as attachment:
        model.generate(**tensors, max_new_tokens=2, do_sample=False)
        assert [report.grid for report in attachment.reports] == [ours.videos[0][0].grid]
