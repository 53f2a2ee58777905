"""A tiny checkpoint in LLaVA-NeXT's layout, and its forward pass written from that layout."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2Model

Tensors = dict[str, torch.Tensor]

HIDDEN, LAYERS, HEADS, KV_HEADS, WIDTH = 32, 3, 4, 2, 48
SEEN, SEEN_LAYERS, SEEN_HEADS, SEEN_WIDTH = 16, 3, 2, 24  # of the tower
IMAGE, PATCH = 10, 2
SIDE, POOLED = 5, 3  # patches of a row, tokens of a row
ENDS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TOWER = "model.vision_tower.vision_tower."


@dataclass(frozen=True)
class Original:
    """A checkpoint on disk, and what is in it."""

    folder: Path
    tower: Path
    tensors: Tensors
    config: dict[str, Any]


def write_original(
    folder: Path,
    *,
    spare: int = 8,
    tower_inside: bool = True,
    tied: bool = False,
    dtype: torch.dtype = torch.float32,
    **config: Any,
) -> Original:
    """Write a checkpoint of two shards with an index, a tokenizer and its vision tower beside it.

    Args:
        folder: to write below.
        spare: rows of the vocabulary that no word uses.
        tower_inside: whether the checkpoint holds the vision tower, too.
        tied: whether the vocabulary is both embedding and head.
        dtype: of the weights.
        config: overrides in config.json.
    """
    words = tokenizer()
    rows = len(words) + spare
    tensors = {**decoder(rows, tied=tied), **projector()}
    seen = tower()
    if tower_inside:
        # As LLaVA saves it: the last layer and the pooling are gone.
        gone = (f"vision_model.encoder.layers.{SEEN_LAYERS - 1}.", "vision_model.head.")
        kept = (n for n in seen if n.startswith("vision_model.") and not n.startswith(gone))
        tensors |= {TOWER + name: seen[name] for name in kept}
    checkpoint, beside = folder / "llava-video", folder / "siglip"
    for path in (checkpoint, beside):
        path.mkdir(parents=True)
    save_file({n: t.to(dtype) for n, t in seen.items()}, beside / "model.safetensors")
    write_json(beside / "config.json", tower_config())
    known = original_config(rows, beside, tied=tied) | config
    write_json(checkpoint / "config.json", known)
    write_shards(checkpoint, {name: tensor.to(dtype) for name, tensor in tensors.items()})
    words.save_pretrained(checkpoint)
    return Original(checkpoint, beside, tensors | seen, known)


def write_shards(folder: Path, tensors: Tensors) -> None:
    """Write tensors to two shards with an index."""
    names = sorted(tensors)
    parts = {1: names[: len(names) // 2], 2: names[len(names) // 2 :]}
    where: dict[str, str] = {}
    for number, part in parts.items():
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name].contiguous() for name in part}, folder / file)
        where |= dict.fromkeys(part, file)
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": where})


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level tokenizer with Qwen2's three marks and no placeholders."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    core = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=ENDS[0],
        eos_token=ENDS[2],
        clean_up_tokenization_spaces=False,
    )
    fast.add_tokens([ENDS[1]], special_tokens=True)
    return fast


def original_config(rows: int, tower: Path, *, tied: bool) -> dict[str, Any]:
    """Write config.json as LLaVA-Video's is."""
    return {
        "architectures": ["LlavaQwenForCausalLM"],
        "model_type": "llava",
        "hidden_size": HIDDEN,
        "intermediate_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "vocab_size": rows,
        "hidden_act": "silu",
        "max_position_embeddings": 4096,
        "max_window_layers": LAYERS,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000.0,
        "rope_scaling": None,
        "sliding_window": 4096,
        "use_sliding_window": False,
        "tie_word_embeddings": tied,
        "torch_dtype": "bfloat16",
        "image_aspect_ratio": "anyres_max_9",
        "image_grid_pinpoints": "(1x1),...,(2x2)",
        "mm_hidden_size": SEEN,
        "mm_newline_position": "grid",
        "mm_patch_merge_type": "spatial_unpad",
        "mm_projector_type": "mlp2x_gelu",
        "mm_resampler_type": None,
        "mm_spatial_pool_mode": "bilinear",
        "mm_use_im_start_end": False,
        "mm_vision_select_layer": -2,
        "mm_vision_tower": str(tower),
        "add_faster_video": False,
        "add_time_instruction": True,
        "use_mm_proj": True,
    }


def tower_config() -> dict[str, Any]:
    """Write a SigLIP's config.json; sizes as in the real one, but small."""
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": SEEN,
        "intermediate_size": SEEN_WIDTH,
        "num_hidden_layers": SEEN_LAYERS,
        "num_attention_heads": SEEN_HEADS,
        "image_size": IMAGE,
        "patch_size": PATCH,
    }
    return {"model_type": "siglip", "vision_config": vision, "text_config": {}}


def decoder(rows: int, *, tied: bool) -> Tensors:
    draw = Draw(1)
    kv = HIDDEN // HEADS * KV_HEADS
    tensors = {"model.embed_tokens.weight": draw(rows, HIDDEN)}
    for i in range(LAYERS):
        at = f"model.layers.{i}."
        for name, size in (("q", HIDDEN), ("k", kv), ("v", kv)):
            tensors[f"{at}self_attn.{name}_proj.weight"] = draw(size, HIDDEN)
            tensors[f"{at}self_attn.{name}_proj.bias"] = draw(size)
        tensors[f"{at}self_attn.o_proj.weight"] = draw(HIDDEN, HIDDEN)
        for name in ("gate", "up"):
            tensors[f"{at}mlp.{name}_proj.weight"] = draw(WIDTH, HIDDEN)
        tensors[f"{at}mlp.down_proj.weight"] = draw(HIDDEN, WIDTH)
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{at}{name}.weight"] = 1 + draw(HIDDEN)
    tensors["model.norm.weight"] = 1 + draw(HIDDEN)
    if not tied:
        tensors["lm_head.weight"] = draw(rows, HIDDEN)
    return tensors


def projector() -> Tensors:
    draw = Draw(2)
    return {
        "model.mm_projector.0.weight": draw(HIDDEN, SEEN),
        "model.mm_projector.0.bias": draw(HIDDEN),
        "model.mm_projector.2.weight": draw(HIDDEN, HIDDEN),
        "model.mm_projector.2.bias": draw(HIDDEN),
        "model.image_newline": draw(HIDDEN),
    }


def tower() -> Tensors:
    """A whole SigLIP: all vision layers, its pooling head, and a bit of the text tower."""
    draw = Draw(3)
    at = "vision_model."
    tensors = {
        f"{at}embeddings.patch_embedding.weight": draw(SEEN, 3, PATCH, PATCH),
        f"{at}embeddings.patch_embedding.bias": draw(SEEN),
        f"{at}embeddings.position_embedding.weight": draw(SIDE * SIDE, SEEN),
        f"{at}post_layernorm.weight": 1 + draw(SEEN),
        f"{at}post_layernorm.bias": draw(SEEN),
        f"{at}head.probe": draw(1, 1, SEEN),
        "text_model.final_layer_norm.weight": draw(SEEN),
        "logit_scale": draw(1),
    }
    for i in range(SEEN_LAYERS):
        layer = f"{at}encoder.layers.{i}."
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            tensors[f"{layer}self_attn.{name}.weight"] = draw(SEEN, SEEN)
            tensors[f"{layer}self_attn.{name}.bias"] = draw(SEEN)
        for name in ("layer_norm1", "layer_norm2"):
            tensors[f"{layer}{name}.weight"] = 1 + draw(SEEN)
            tensors[f"{layer}{name}.bias"] = draw(SEEN)
        tensors[f"{layer}mlp.fc1.weight"] = draw(SEEN_WIDTH, SEEN)
        tensors[f"{layer}mlp.fc1.bias"] = draw(SEEN_WIDTH)
        tensors[f"{layer}mlp.fc2.weight"] = draw(SEEN, SEEN_WIDTH)
        tensors[f"{layer}mlp.fc2.bias"] = draw(SEEN)
    return tensors


class Draw:
    """Random weights, different in every tensor."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, *shape: int) -> torch.Tensor:
        return 0.3 * torch.randn(*shape, generator=self.generator)


def video_tokens(tensors: Tensors, frames: torch.Tensor, newline: str) -> torch.Tensor:
    """Encode a video ``(T, 3, IMAGE, IMAGE)`` by hand: ``(n, HIDDEN)``."""
    prefix = TOWER if any(name.startswith(TOWER) for name in tensors) else ""
    weights = {n.removeprefix(f"{prefix}vision_model."): t for n, t in tensors.items()}
    x = see(weights, frames)
    x = functional.linear(
        x, tensors["model.mm_projector.0.weight"], tensors["model.mm_projector.0.bias"]
    )
    x = functional.linear(
        functional.gelu(x),
        tensors["model.mm_projector.2.weight"],
        tensors["model.mm_projector.2.bias"],
    )
    x = x.view(len(frames), SIDE, SIDE, HIDDEN).permute(0, 3, 1, 2)
    x = functional.interpolate(x, size=(POOLED, POOLED), mode="bilinear")
    x = x.permute(0, 2, 3, 1)  # t, y, x, c
    mark = tensors["model.image_newline"]
    if newline == "grid":
        rows = [torch.cat([row, mark[None]]) for frame in x for row in frame]
        return torch.cat(rows)
    if newline == "frame":
        return torch.cat([torch.cat([frame.flatten(0, 1), mark[None]]) for frame in x])
    flat = x.flatten(0, 2)
    return torch.cat([flat, mark[None]]) if newline == "one_token" else flat


def see(weights: Tensors, frames: torch.Tensor) -> torch.Tensor:
    """Run SigLIP by hand, without its last layer and without a norm behind it."""
    x = functional.conv2d(
        frames,
        weights["embeddings.patch_embedding.weight"],
        weights["embeddings.patch_embedding.bias"],
        stride=PATCH,
    )
    x = x.flatten(2).transpose(1, 2) + weights["embeddings.position_embedding.weight"]
    for i in range(SEEN_LAYERS - 1):

        def linear(
            value: torch.Tensor, name: str, at: str = f"encoder.layers.{i}."
        ) -> torch.Tensor:
            return functional.linear(
                value, weights[f"{at}{name}.weight"], weights[f"{at}{name}.bias"]
            )

        def norm(value: torch.Tensor, name: str, at: str = f"encoder.layers.{i}.") -> torch.Tensor:
            weight, bias = weights[f"{at}{name}.weight"], weights[f"{at}{name}.bias"]
            return functional.layer_norm(value, (SEEN,), weight, bias, eps=1e-6)

        y = norm(x, "layer_norm1")
        parts = [linear(y, f"self_attn.{name}_proj") for name in "qkv"]
        q, k, v = (p.view(*p.shape[:2], SEEN_HEADS, -1).transpose(1, 2) for p in parts)
        scores = q @ k.transpose(-1, -2) / (SEEN // SEEN_HEADS) ** 0.5
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        x = x + linear(mixed, "self_attn.out_proj")
        y = functional.gelu(linear(norm(x, "layer_norm2"), "mlp.fc1"), approximate="tanh")
        x = x + linear(y, "mlp.fc2")
    return x


def logits(
    original: Original, before: list[int], video: torch.Tensor, after: list[int]
) -> torch.Tensor:
    """Run the decoder on text, a video's tokens and text: ``(n, vocab)``.

    Args:
        original: its configuration is used as it is written there.
        before: ids in front of the video.
        video: ``(n, HIDDEN)``.
        after: ids behind the video.
    """
    tensors, config = original.tensors, original.config
    embedding = tensors["model.embed_tokens.weight"]
    x = torch.cat([embedding[before], video, embedding[after]])
    own = {k: config[k] for k in Qwen2Config().to_dict() if k in config and k != "model_type"}
    own["rope_parameters"] = {"rope_type": "default", "rope_theta": config["rope_theta"]}
    decoder = Qwen2Model(Qwen2Config(**own)).eval()
    names = (n for n in tensors if n.startswith("model.") and "mm_projector" not in n)
    weights = {n.removeprefix("model."): tensors[n] for n in names}
    kept = {n: t for n, t in weights.items() if n.startswith(("embed_tokens", "layers", "norm"))}
    decoder.load_state_dict(kept, strict=True)
    hidden = decoder(inputs_embeds=x[None]).last_hidden_state[0]
    return functional.linear(hidden, tensors.get("lm_head.weight", embedding))
