"""At which layer does nano read its video? Hide the video from the questions from layer k on.

    python -m training.depth --frames 8 --clips 40

The answers that survive were read below layer k; a reduction of video tokens at layer k or later
cannot hurt them. This is why nano recommends to reduce before layer 0.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, LlavaOnevisionForConditionalGeneration

from sttm.nano.model import load
from training.ask import Packer
from training.eval_nano import Tally, clips_of, packed_tally, summary, table
from training.packing import packed_attention

HIDING = "nano_hiding"


def hiding_from(layer: int, prefix: int) -> Callable[..., tuple[Tensor, None]]:
    """Packed attention in which questions see no video in ``layer`` and above it."""

    def attention(
        module: torch.nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor,
        **arguments: Any,
    ) -> tuple[Tensor, None]:
        if int(getattr(module, "layer_idx", 0)) >= layer:
            asked = attention_mask.shape[2]
            attention_mask = attention_mask.clone()
            attention_mask[:, :, :, prefix : attention_mask.shape[3] - asked] = float("-inf")
        return packed_attention(module, query, key, value, attention_mask, **arguments)

    return attention


def tally_from(
    model: LlavaOnevisionForConditionalGeneration,
    packer: Packer,
    layer: int,
    frames: int,
    clips: int,
) -> Tally:
    """Right and wrong answers with the video hidden from ``layer`` on."""
    prefix = len(packer.tokens("<|im_start|>user\n"))
    AttentionInterface.register(HIDING, hiding_from(layer, prefix))
    model.set_attn_implementation({"text_config": HIDING})
    return packed_tally(model, packer, clips_of(frames, clips, None))


def main() -> None:
    """Print the accuracy for every k."""
    parser = argparse.ArgumentParser(description="Where nano reads its video.")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model, processor = load()
    packer = Packer(processor.tokenizer)
    layers = model.config.text_config.num_hidden_layers
    report = {
        f"hidden from layer {k}": summary(tally_from(model, packer, k, args.frames, args.clips))
        for k in range(layers + 1)
    }
    print(table(report))


if __name__ == "__main__":
    main()
