"""The tokenizer and the processor of a converted checkpoint."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import (
    AddedToken,
    AutoTokenizer,
    LlavaOnevisionImageProcessor,
    LlavaOnevisionVideoProcessor,
    Qwen2Config,
)

from sttm.checkpoints.source import read_config
from sttm.errors import ConfigError, first_line

IMAGE, VIDEO = "<image>", "<video>"
TURN_END = "<|im_end|>"
# LLaVA's conversation format "qwen_1_5": ChatML, its system prompt, the picture in front.
CHAT_TEMPLATE = """\
{%- if messages[0]['role'] != 'system' -%}
{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
{%- endif -%}
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{ message['content'] -}}
{%- else -%}
{%- for part in message['content'] if part['type'] == 'image' -%}
{{ '<image>\\n' -}}
{%- endfor -%}
{%- for part in message['content'] if part['type'] == 'video' -%}
{{ '<video>\\n' -}}
{%- endfor -%}
{%- for part in message['content'] if part['type'] == 'text' -%}
{{ part['text'] -}}
{%- endfor -%}
{%- endif -%}
{{ '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""
_HALF = [0.5, 0.5, 0.5]


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer that knows the placeholders.

    Args:
        wrapped: the tokenizer of transformers, with them.
        image: id of the image placeholder.
        video: id of the video placeholder.
        ends: ids that end an answer; the end of a turn is the first.
        pad: id for padding.
    """

    wrapped: Any
    image: int
    video: int
    ends: list[int]
    pad: int | None


def read_tokenizer(folder: Path) -> Tokenizer:
    """Load the tokenizer of a checkpoint and give it placeholders that no word uses.

    Raises:
        ConfigError: there is no tokenizer, or not Qwen2's.
    """
    try:
        # With a configuration, since transformers does not know the folder's own.
        tokenizer = AutoTokenizer.from_pretrained(folder, config=Qwen2Config(), padding_side="left")
    except (OSError, ValueError, ImportError, KeyError) as error:
        raise ConfigError(
            f"{folder}: got a tokenizer that cannot be loaded ({first_line(error)}), expected "
            "Qwen2's files (tokenizer.json, or vocab.json and merges.txt). Download them again."
        ) from error
    known = tokenizer.get_vocab()
    if TURN_END not in known:
        raise ConfigError(
            f"{folder}: got a tokenizer without {TURN_END}, expected Qwen2's, in whose format the "
            "model was trained. Download the tokenizer files again."
        )
    marks = [AddedToken(mark, special=True, normalized=False) for mark in (IMAGE, VIDEO)]
    tokenizer.add_tokens(marks, special_tokens=True)
    image, video = (int(tokenizer.convert_tokens_to_ids(mark)) for mark in (IMAGE, VIDEO))
    used = {index for word, index in known.items() if word not in (IMAGE, VIDEO)}
    if used & {image, video} or image == video:
        raise ConfigError(
            f"{folder}: got a tokenizer whose ids {image} and {video} are words already, expected "
            f"room for {IMAGE} and {VIDEO} behind its vocabulary. Its files do not fit together."
        )
    ends = _answer_ends(folder, int(known[TURN_END]))
    return Tokenizer(tokenizer, image, video, ends, tokenizer.pad_token_id)


def build_processor(tokenizer: Tokenizer, config: Any, kind: type[Any]) -> Any:
    """Build a processor of a class: frames are resized to a square, bicubic, with no crop."""
    vision = config.vision_config
    pictures = {
        "size": {"height": vision.image_size, "width": vision.image_size},
        "image_mean": _HALF,
        "image_std": _HALF,
        "resample": 3,
    }
    return kind(
        LlavaOnevisionImageProcessor(
            **pictures, image_grid_pinpoints=[list(pair) for pair in config.image_grid_pinpoints]
        ),
        tokenizer.wrapped,
        LlavaOnevisionVideoProcessor(**pictures),
        num_image_tokens=(vision.image_size // vision.patch_size) ** 2,
        vision_feature_select_strategy="full",
        chat_template=CHAT_TEMPLATE,
        vision_aspect_ratio=config.vision_aspect_ratio,
    )


def _answer_ends(folder: Path, turn_end: int) -> list[int]:
    """Read what ends an answer; the end of a turn always does."""
    name = "generation_config.json"
    found = read_config(folder, name).get("eos_token_id") if (folder / name).is_file() else None
    named = found if isinstance(found, list) else [found]
    others = (int(index) for index in named if index is not None)
    return list(dict.fromkeys([turn_end, *others]))
