"""Load the bundled model."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import LlavaOnevisionForConditionalGeneration, LlavaOnevisionProcessor

# nano has read digits, colours and corners after its first layer (docs/nano.md), so a reduction
# at a later layer costs nothing and shows nothing.
NANO_LAYER = 0
# nano learned long clips from short ones whose frames stood at random places, so gaps between
# positions are nothing new to it; moving tokens closer together is (LOG.md has the numbers).
NANO_POSITIONS = "survived"


def weights_path() -> Path:
    """The folder with nano's weights, configuration, tokenizer and processor."""
    return Path(str(files("sttm.nano"))) / "weights"


def load(
    dtype: torch.dtype = torch.float32,
) -> tuple[LlavaOnevisionForConditionalGeneration, LlavaOnevisionProcessor]:
    """Load nano with ``from_pretrained``, from the bundled folder only.

    Args:
        dtype: of the weights in memory; they are stored in bfloat16.

    Returns:
        the model in eval mode on the CPU, and its processor.

    Raises:
        FileNotFoundError: the package was installed without its weights.
    """
    from transformers import LlavaOnevisionForConditionalGeneration, LlavaOnevisionProcessor

    folder = weights_path()
    if not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(
            f"got no model.safetensors in {folder}, expected nano's weights there; "
            "reinstall sttm, or make them with training/train_nano.py"
        )
    model = LlavaOnevisionForConditionalGeneration.from_pretrained(
        folder, dtype=dtype, local_files_only=True
    )
    processor = LlavaOnevisionProcessor.from_pretrained(folder, local_files_only=True)
    return model.eval(), processor
