"""Write the weights folder: bf16 safetensors, configuration, tokenizer, processor.

python -m training.export build/nano/long.pt src/sttm/nano/weights
"""

from __future__ import annotations

import argparse
import copy
import shutil
from pathlib import Path

import torch
from transformers import GenerationConfig, LlavaOnevisionForConditionalGeneration

from training.checkpoint import load_state, new_model
from training.text import build_processor


def export(model: LlavaOnevisionForConditionalGeneration, folder: Path) -> None:
    """Save a copy of the model in bfloat16 with its processor.

    Every file is written beside its place and moved into it, so that a reader never sees half
    a file; the model itself stays as it is.
    """
    small = copy.deepcopy(model).to(torch.bfloat16)
    small.set_attn_implementation({"text_config": "sdpa"})
    small.generation_config = GenerationConfig(
        eos_token_id=model.config.text_config.eos_token_id,
        pad_token_id=model.config.text_config.pad_token_id,
        max_new_tokens=8,
        do_sample=False,
    )
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    small.save_pretrained(partial)
    build_processor().save_pretrained(partial)
    folder.mkdir(parents=True, exist_ok=True)
    for file in sorted(partial.iterdir()):
        file.replace(folder / file.name)
    partial.rmdir()


def main() -> None:
    """Export a checkpoint."""
    parser = argparse.ArgumentParser(description="Write the weights folder of a checkpoint.")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    model, head = new_model(0)
    load_state(args.checkpoint, model, head)
    export(model, args.folder)


if __name__ == "__main__":
    main()
