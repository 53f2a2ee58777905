"""Time to first token with all tokens and merged, at the shapes of published models.

Random weights: what is measured is time and memory, not answers. The number of tokens is forced to
``keep``; the time of STTM's own planning is part of the merged run. The vision tower is left out,
as in the paper: TTFT is the language model's first forward, merging included.

python benchmarks/ttft.py --shape llava-onevision-0.5b --frames 16 --keep 0.5 0.3 0.1
python benchmarks/ttft.py --shape llava-onevision-7b --frames 128 --device cuda --dtype bfloat16
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import transformers
from machine import environment

import sttm

SIDE = 14
# hidden, intermediate, layers, heads, key-value heads, vocabulary of the Qwen2 decoders
SHAPES = {
    "llava-onevision-0.5b": (896, 4864, 24, 14, 2, 151_936),
    "llava-onevision-7b": (3584, 18_944, 28, 28, 4, 152_064),
    "llava-video-72b": (8192, 29_568, 80, 64, 8, 152_064),
}


@dataclass(frozen=True)
class Forced:
    """Plans with STTM for its cost, then keeps a fixed share of evenly spread groups."""

    keep: float

    name: ClassVar[str] = "forced"
    query_aware: ClassVar[bool] = False

    def plan(self, x: torch.Tensor, grid: sttm.VideoGrid) -> sttm.MergePlan:
        sttm.STTM(spatial_threshold=0.8, temporal_threshold=0.6).plan(x, grid)
        count = max(1, int(grid.num_tokens * self.keep))
        index = torch.arange(grid.num_tokens, device=x.device)
        group = index * count // grid.num_tokens
        first = torch.ones_like(group, dtype=torch.bool)
        first[1:] = group[1:] != group[:-1]
        return sttm.MergePlan.from_groups(group=group, anchor=index[first])


def build(shape: str, device: str, dtype: torch.dtype) -> Any:
    """Build the decoder of a published model behind a token-sized vision tower."""
    hidden, intermediate, layers, heads, kv_heads, vocabulary = SHAPES[shape]
    text = transformers.Qwen2Config(
        hidden_size=hidden,
        intermediate_size=intermediate,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        vocab_size=vocabulary,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
    )
    vision = transformers.SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=384,
        patch_size=14,
        vision_use_head=False,
    )
    config = transformers.LlavaOnevisionConfig(
        vision_config=vision,
        text_config=text,
        vision_feature_layer=-1,
        image_token_index=vocabulary - 2,
        video_token_index=vocabulary - 1,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = transformers.LlavaOnevisionForConditionalGeneration(config)
    return model.to(dtype).eval()


def prompt(model: Any, frames: int) -> dict[str, torch.Tensor]:
    """Write a prompt of 14 words, the video, its newline and 30 words."""
    video = model.config.video_token_id
    ids = [*range(10, 24), *[video] * (frames * SIDE * SIDE + 1), *range(30, 60)]
    pixels = torch.rand(1, frames, 3, 384, 384, device=model.device, dtype=model.dtype)
    return {"input_ids": torch.tensor([ids], device=model.device), "pixel_values_videos": pixels}


@dataclass(frozen=True)
class Run:
    """One measured prefill and a few decoding steps."""

    ttft: float
    merge: float
    per_token: float
    kv_bytes: int
    peak_bytes: int
    tokens: int


@torch.no_grad()
def measure(model: Any, inputs: dict[str, torch.Tensor], keep: float, layer: int) -> Run:
    """Encode without being timed, then time the first forward and 4 decoding steps."""
    whole = keep == 1.0
    attached: Any = nullcontext() if whole else sttm.attach(model, Forced(keep), layer=layer)
    cuda = model.device.type == "cuda"
    with attached as attachment:
        features = model.model.get_video_features(inputs["pixel_values_videos"])
        if cuda:
            torch.cuda.reset_peak_memory_stats()
        start = _now(cuda)
        out = model(
            input_ids=inputs["input_ids"],
            mm_encoder_outputs={"video": features},
            use_cache=True,
            logits_to_keep=1,
        )
        first = _now(cuda)
        cache, token = out.past_key_values, out.logits[:, -1:].argmax(-1)
        for _ in range(4):
            step = model(input_ids=token, past_key_values=cache, use_cache=True)
            token = step.logits[:, -1:].argmax(-1)
        end = _now(cuda)
    report = None if whole else attachment.reports[0]
    return Run(
        ttft=first - start,
        merge=0.0 if report is None else report.milliseconds / 1e3,
        per_token=(end - first) / 4,
        kv_bytes=sum(part.keys.nbytes + part.values.nbytes for part in cache.layers),
        peak_bytes=torch.cuda.max_memory_allocated() if cuda else 0,
        tokens=inputs["input_ids"].shape[1] - 45 if report is None else report.tokens_out,
    )


def ideal_ratio(shape: str, tokens: Sequence[int], layer: int) -> float:
    """Floating-point operations of a prefill, merged over full; without the output layer."""
    hidden, intermediate, layers, heads, kv_heads, _ = SHAPES[shape]
    dense = 2 * hidden * (2 * hidden + 2 * hidden * kv_heads // heads + 3 * intermediate)

    def cost(length: int) -> float:
        return length * dense + 2 * length**2 * hidden

    full, merged = (cost(count + 45) for count in tokens)
    return (layer * full + (layers - layer) * merged) / (layers * full)


def _now(cuda: bool) -> float:
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    """Measure interleaved, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, default="llava-onevision-0.5b")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--keep", type=float, nargs="+", default=[0.5, 0.3, 0.1])
    parser.add_argument("--layer", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/ttft.json"))
    args = parser.parse_args()
    model = build(args.shape, args.device, getattr(torch, args.dtype))
    inputs = prompt(model, args.frames)
    keeps = [1.0, *args.keep]
    runs: dict[float, list[Run]] = {keep: [] for keep in keeps}
    for repeat in range(args.repeats + 1):
        for keep in keeps:
            run = measure(model, inputs, keep, args.layer)
            if repeat:  # the first round warms up
                runs[keep].append(run)
    rows = [_row(args, keep, runs) for keep in keeps]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    settings = {name: str(value) for name, value in vars(args).items() if name != "out"}
    args.out.write_text(
        json.dumps(
            {"machine": environment(torch.device(args.device)), "settings": settings, "rows": rows},
            indent=1,
        )
        + "\n"
    )
    for row in rows:
        print(json.dumps(row))


def _row(args: argparse.Namespace, keep: float, runs: dict[float, list[Run]]) -> dict[str, Any]:
    def median(name: str, of: float = keep) -> float:
        return float(statistics.median(getattr(run, name) for run in runs[of]))

    tokens = int(median("tokens", 1.0)), int(median("tokens"))
    ideal = ideal_ratio(args.shape, tokens, args.layer)
    ratio = median("ttft") / median("ttft", 1.0)
    return {
        "keep": keep,
        "video_tokens": tokens[1],
        "ttft_s": round(median("ttft"), 4),
        "merge_s": round(median("merge"), 4),
        "decode_s_per_token": round(median("per_token"), 4),
        "kv_mib": round(median("kv_bytes") / 2**20, 1),
        "peak_mib": round(median("peak_bytes") / 2**20, 1),
        "ttft_ratio": round(ratio, 4),
        "ideal_ratio": round(ideal, 4),
        "ideal_over_achieved": round(ideal / ratio, 3),
    }


if __name__ == "__main__":
    main()
