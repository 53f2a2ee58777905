"""Tiny models of every family with their processors, and videos for them."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import transformers

from sttm.video import Sampling, Video, write_video
from tests.chat import tiny
from tests.chat.tiny import Bundle
from tests.models import configs
from tests.models.families import skip_if_faulty

_LINE = tiny._LINE
_GLM = {
    "image_token_id": "<|image|>",
    "video_token_id": "<|video|>",
    "image_start_token_id": "<|begin_of_image|>",
    "image_end_token_id": "<|end_of_image|>",
    "video_start_token_id": "<|begin_of_video|>",
    "video_end_token_id": "<|end_of_video|>",
}
_QWEN = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}
_LLAVA = {"image_token_id": "<image>", "video_token_id": "<video>"}
_SMOL = ("<image>", "<video>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>")


def _words(image: str, video: str, *marks: str) -> Any:
    """The byte-level tokenizer with other marks."""
    words = tiny.tokenizer()
    words.add_special_tokens(
        {"additional_special_tokens": [image, video, *marks]}, replace_extra_special_tokens=False
    )
    words.image_token, words.video_token = image, video
    return words


def _qwen2_vl() -> Any:
    return tiny._qwen("Qwen2VL")


def _glm4v() -> Any:
    template = tiny._TURNS.replace("VIDEO", "<|begin_of_video|><|video|><|end_of_video|>")
    patches = {"size": tiny._PIXELS, **tiny._PATCHES}
    return transformers.Glm4vProcessor(
        transformers.Glm4vImageProcessor(**patches),
        _words(*_GLM.values()),
        transformers.Glm4vVideoProcessor(**patches),
        template,
    )


def _llava_next_video() -> Any:
    size = {"height": 12, "width": 12}
    return transformers.LlavaNextVideoProcessor(
        video_processor=transformers.LlavaNextVideoVideoProcessor(size=size, crop_size=size),
        image_processor=transformers.LlavaNextImageProcessor(size=size, crop_size=size),
        tokenizer=_words(*_LLAVA.values()),
        patch_size=2,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_LINE.replace("<|video_pad|>", "<video>"),
    )


def _smolvlm() -> Any:
    size = {"longest_edge": 12}
    return transformers.SmolVLMProcessor(
        transformers.SmolVLMImageProcessor(size=size, max_image_size=size),
        _words(*_SMOL),
        transformers.SmolVLMVideoProcessor(size=size, max_image_size=size),
        image_seq_len=9,
        chat_template=_LINE.replace("<|video_pad|>", "<video>"),
    )


def _video_llama_3() -> Any:
    sizes = {"patch_size": 2, "merge_size": 2, "do_resize": False}
    return transformers.VideoLlama3Processor(
        transformers.VideoLlama3ImageProcessor(**sizes),
        tiny.tokenizer(),
        transformers.VideoLlama3VideoProcessor(**sizes),
        _LINE,
    )


_MORE: dict[str, tuple[Callable[[], Any], dict[str, str]]] = {
    "llava_next_video": (_llava_next_video, _LLAVA),
    "qwen2_vl": (_qwen2_vl, _QWEN),
    "glm4v": (_glm4v, _GLM),
    "smolvlm": (_smolvlm, {"image_token_id": "<image>"}),
    "video_llama_3": (
        _video_llama_3,
        {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>"},
    ),
}
FAMILIES = (*tiny.FAMILIES, *_MORE)


@cache
def bundle(name: str) -> Bundle:
    """Build the tiny model of a family, with a vocabulary that fits its tokenizer."""
    if name not in _MORE:
        return tiny.bundle(name)
    skip_if_faulty(name)
    make, marks = _MORE[name]
    processor = make()
    words, config = processor.tokenizer, getattr(configs, name)()
    config.text_config.vocab_size = len(words)
    config.text_config.pad_token_id = words.pad_token_id
    config.text_config.max_position_embeddings = 4096
    for attribute, text in marks.items():
        setattr(config, attribute, words.convert_tokens_to_ids(text))
    return tiny.build(config, processor)


def video(frames: int = 6, seed: int = 0) -> Video:
    """A video at 30 frames per second, of which one frame per second was sampled."""
    indices = tuple(30 * place for place in range(frames))
    return Video(
        frames=tiny.clip(frames, seed),
        timestamps=tuple(index / 30 + 0.01 for index in indices),
        indices=indices,
        duration=float(frames),
        fps=30.0,
        total_frames=30 * frames,
        path=f"made/{seed}.mp4",
        sampling=Sampling(max_frames=frames),
        warnings=("made up",),
    )


def files(folder: Path, count: int = 2) -> list[Path]:
    """Write short video files."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"clip {seed}.mp4" for seed in range(count)]
    for seed, path in enumerate(paths):
        write_video(tiny.clip(4 + seed, seed), path, fps=1)
    return paths
