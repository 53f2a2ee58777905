"""Tiny checkpoints with random weights that vLLM can load, tokenizer and processor included."""

import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

from sttm import nano

PATCH, HIDDEN = 14, 128
_LEARNED = {"num_position_embeddings": 256}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 96}
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
        "hidden_size": HIDDEN,
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


def _sizes(hidden_size: int = HIDDEN, **_: Any) -> dict[str, int]:
    return {"hidden_size": 64, "out_hidden_size": hidden_size, "intermediate_size": 96}


def _ids(tokenizer: Any) -> dict[str, int]:
    names = {"vision_start": _MARKS[3], "vision_end": _MARKS[4], "image": _PADS[1]}
    names["video"] = _PADS[2]
    ids = tokenizer.convert_tokens_to_ids(list(names.values()))
    return {f"{name}_token_id": i for name, i in zip(names, ids, strict=True)}


def _qwen2_vl(ids: dict[str, int], **text: Any) -> Any:
    vision = _vision(embed_dim=64, hidden_size=text.get("hidden_size", HIDDEN))
    text = _text([4, 6, 6], **text)
    return transformers.Qwen2VLConfig(vision_config=vision, text_config=text, **ids)


def _qwen2_5_vl(ids: dict[str, int], **text: Any) -> Any:
    windows = {"tokens_per_second": 2, "window_size": 112, "fullatt_block_indexes": [1]}
    vision = _vision(**_sizes(**text), **windows)
    text = _text([4, 6, 6], **text)
    return transformers.Qwen2_5_VLConfig(vision_config=vision, text_config=text, **ids)


def _qwen3_vl(ids: dict[str, int], config: str = "Qwen3VLConfig", **text: Any) -> Any:
    vision = _vision(**_sizes(**text), **_LEARNED, deepstack_visual_indexes=[0, 1])
    text = _text([6, 5, 5], head_dim=32, rope={"mrope_interleaved": True}, **text)
    return getattr(transformers, config)(vision_config=vision, text_config=text, **ids)


def _qwen3_vl_moe(ids: dict[str, int], **text: Any) -> Any:
    return _qwen3_vl(ids, "Qwen3VLMoeConfig", norm_topk_prob=True, **_EXPERTS, **text)


def _qwen3_5(ids: dict[str, int], config: str = "Qwen3_5Config", **text: Any) -> Any:
    vision = _vision(**_sizes(**text), **_LEARNED)
    heads = {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
    sizes = {"linear_key_head_dim": 128, "linear_value_head_dim": 128, "head_dim": 32}
    layers = ["linear_attention", "linear_attention", "full_attention"]
    rope = {"mrope_interleaved": True, "partial_rotary_factor": 0.5}
    text = _text([4, 2, 2], layer_types=layers, rope=rope, **heads, **sizes, **text)
    return getattr(transformers, config)(vision_config=vision, text_config=text, **ids)


def _qwen3_5_moe(ids: dict[str, int], **text: Any) -> Any:
    experts = {**_EXPERTS, "shared_expert_intermediate_size": 64}
    return _qwen3_5(ids, "Qwen3_5MoeConfig", **experts, **text)


_FAMILIES = {
    "qwen2_vl": (_qwen2_vl, "Qwen2VL", "Qwen2VL"),
    "qwen2_5_vl": (_qwen2_5_vl, "Qwen2_5_VL", "Qwen2VL"),
    "qwen3_vl": (_qwen3_vl, "Qwen3VL", "Qwen3VL"),
    "qwen3_vl_moe": (_qwen3_vl_moe, "Qwen3VLMoe", "Qwen3VL"),
    "qwen3_5": (_qwen3_5, "Qwen3_5", "Qwen3VL"),
    "qwen3_5_moe": (_qwen3_5_moe, "Qwen3_5Moe", "Qwen3VL"),
}


def _nano(folder: Path) -> Path:
    """Copy nano with the older names of its tower's weights: vLLM does not know the newer ones."""
    shutil.copytree(nano.weights_path(), folder)
    path, tower = folder / "model.safetensors", "vision_tower."
    weights = load_file(path)
    older = {name.replace(tower, f"{tower}vision_model."): w for name, w in weights.items()}
    save_file(older, path, {"format": "pt"})
    return folder


def _transpose_experts(path: Path) -> None:
    """Store experts as published checkpoints of Qwen3-VL do; transformers 5 writes them turned."""
    weights = load_file(path)
    turned = {n: w.mT.contiguous() if ".experts." in n else w for n, w in weights.items()}
    save_file(turned, path, {"format": "pt"})


def make(name: str, folder: Path, **text: Any) -> Path:
    """Write a checkpoint, and return its folder.

    Args:
        name: of the family, or nano.
        folder: where to.
        text: other sizes of the language model.
    """
    if name == "nano":
        return _nano(folder)
    config, model, video = _FAMILIES[name]
    tokenizer = _tokenizer()
    torch.manual_seed(0)
    cls = getattr(transformers, f"{model}ForConditionalGeneration")
    network = cls(config(_ids(tokenizer), **text))
    _sharpen(network)
    network.save_pretrained(folder)
    if name == "qwen3_vl_moe":
        _transpose_experts(folder / "model.safetensors")
    sizes = {"patch_size": PATCH, "temporal_patch_size": 2, "merge_size": 2}
    limits = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 4096}
    videos = getattr(transformers, f"{video}VideoProcessor")(**sizes, size=limits)
    colours = {"image_mean": videos.image_mean, "image_std": videos.image_std}  # vLLM has one
    # Models with experts, and Qwen3.5, have the processor of Qwen3-VL.
    processor = getattr(transformers, f"{'Qwen3VL' if video == 'Qwen3VL' else model}Processor")(
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
