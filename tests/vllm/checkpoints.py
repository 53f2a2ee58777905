"""Tiny checkpoints with random weights that vLLM can load, tokenizer and processor included."""

import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

from sttm import nano

PATCH = 14
_MARKS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
_PADS = ["<|vision_pad|>", "<|image_pad|>", "<|video_pad|>"]
_TEMPLATE = """{%- for message in messages -%}
<|im_start|>{{ message['role'] + '\n' -}}
{%- if message['content'] is string -%}{{ message['content'] -}}
{%- else -%}{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>
{%- elif part['type'] == 'video' -%}<|vision_start|><|video_pad|><|vision_end|>
{%- else -%}{{ part['text'] -}}{%- endif -%}
{%- endfor -%}{%- endif -%}
{{ '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant\n{%- endif -%}
"""


def _tokenizer() -> Any:
    """Build a tokenizer whose tokens are bytes."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    vocab = {char: i for i, char in enumerate(bytes_to_unicode().values())}
    tokenizer = transformers.Qwen2Tokenizer(vocab=vocab, merges=[], pad_token=_MARKS[0])
    tokenizer.add_special_tokens({"additional_special_tokens": [*_MARKS[1:], *_PADS]})
    return tokenizer


def _text(section: list[int], **more: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": section}
    return {
        "vocab_size": 320,
        "hidden_size": 128,
        "intermediate_size": 192,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": False,
        "rope_parameters": {**rope, **more.pop("rope", {})},
        **more,
    }


def _vision(**more: Any) -> dict[str, Any]:
    sizes = {"depth": 2, "num_heads": 2, "patch_size": PATCH, "temporal_patch_size": 2}
    return {**sizes, "spatial_merge_size": 2, **more}


def _ids(tokenizer: Any) -> dict[str, int]:
    names = {"vision_start": _MARKS[3], "vision_end": _MARKS[4], "image": _PADS[1]}
    names["video"] = _PADS[2]
    ids = tokenizer.convert_tokens_to_ids(list(names.values()))
    return {f"{name}_token_id": i for name, i in zip(names, ids, strict=True)}


def _qwen2_vl(ids: dict[str, int]) -> Any:
    vision = _vision(embed_dim=64, hidden_size=128)
    return transformers.Qwen2VLConfig(vision_config=vision, text_config=_text([4, 6, 6]), **ids)


def _qwen2_5_vl(ids: dict[str, int]) -> Any:
    sizes = {"hidden_size": 64, "out_hidden_size": 128, "intermediate_size": 96}
    windows = {"tokens_per_second": 2, "window_size": 112, "fullatt_block_indexes": [1]}
    vision = _vision(**sizes, **windows)
    return transformers.Qwen2_5_VLConfig(vision_config=vision, text_config=_text([4, 6, 6]), **ids)


def _qwen3_vl(ids: dict[str, int]) -> Any:
    sizes = {"hidden_size": 64, "out_hidden_size": 128, "intermediate_size": 96}
    levels = {"num_position_embeddings": 256, "deepstack_visual_indexes": [0, 1]}
    vision = _vision(**sizes, **levels)
    text = _text([6, 5, 5], head_dim=32, rope={"mrope_interleaved": True})
    return transformers.Qwen3VLConfig(vision_config=vision, text_config=text, **ids)


_FAMILIES = {
    "qwen2_vl": (_qwen2_vl, "Qwen2VL", "Qwen2VL"),
    "qwen2_5_vl": (_qwen2_5_vl, "Qwen2_5_VL", "Qwen2VL"),
    "qwen3_vl": (_qwen3_vl, "Qwen3VL", "Qwen3VL"),
}


def _nano(folder: Path) -> Path:
    """Copy nano with the older names of its tower's weights: vLLM does not know the newer ones."""
    shutil.copytree(nano.weights_path(), folder)
    path, tower = folder / "model.safetensors", "vision_tower."
    weights = load_file(path)
    older = {name.replace(tower, f"{tower}vision_model."): w for name, w in weights.items()}
    save_file(older, path, {"format": "pt"})
    return folder


def make(name: str, folder: Path) -> Path:
    """Write a checkpoint, and return its folder."""
    if name == "nano":
        return _nano(folder)
    config, model, video = _FAMILIES[name]
    tokenizer = _tokenizer()
    torch.manual_seed(0)
    cls = getattr(transformers, f"{model}ForConditionalGeneration")
    network = cls(config(_ids(tokenizer)))
    _sharpen(network)
    network.save_pretrained(folder)
    sizes = {"patch_size": PATCH, "temporal_patch_size": 2, "merge_size": 2}
    limits = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 4096}
    videos = getattr(transformers, f"{video}VideoProcessor")(**sizes, size=limits)
    colours = {"image_mean": videos.image_mean, "image_std": videos.image_std}  # vLLM has one
    processor = getattr(transformers, f"{model}Processor")(
        image_processor=transformers.Qwen2VLImageProcessor(**sizes, **colours, size=limits),
        tokenizer=tokenizer,
        video_processor=videos,
        chat_template=_TEMPLATE,
    )
    processor.save_pretrained(folder)
    return folder


def _sharpen(network: torch.nn.Module) -> None:
    """Scale matrices up, so that logits react to every position."""
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.ndim > 1 and "embed" not in name:
                weight.mul_(3.0)


if __name__ == "__main__":
    import sys

    make(sys.argv[1], Path(sys.argv[2]))
