"""Load any supported model, a checkpoint in LLaVA-NeXT's layout included."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    LlavaOnevisionConfig,
    PreTrainedConfig,
)

from sttm.checkpoints.configure import build_generation_config
from sttm.checkpoints.conversion import Conversion, plan_conversion
from sttm.checkpoints.llava import (
    NEWLINE_KEY,
    PLAIN,
    LlavaVideoForConditionalGeneration,
    LlavaVideoProcessor,
    check_newline,
)
from sttm.checkpoints.placement import Placement
from sttm.checkpoints.shards import open_files
from sttm.checkpoints.source import is_llava_next, read_config
from sttm.checkpoints.tokenizer import build_processor
from sttm.errors import ConfigError, first_line

_ONEVISION = "llava_onevision"


def load(
    name: str,
    *,
    vision_tower: str | None = None,
    newline: str | None = None,
    dtype: str = "auto",
    placement: Placement | None = None,
) -> tuple[Any, Any]:
    """Load a model and its processor by hub id or folder.

    A checkpoint in LLaVA-NeXT's layout is mapped while it is read; see ``sttm convert`` to do that
    once. Everything else is loaded as transformers does it.

    Args:
        name: hub id or folder.
        vision_tower: of a checkpoint in LLaVA-NeXT's layout, see `plan_conversion`.
        newline: where LLaVA's videos get newline tokens, see `plan_conversion`; None for what the
            configuration of a converted checkpoint says, and ``"no_token"`` for others.
        dtype: of the weights: ``"auto"``, ``"bfloat16"``, ``"float16"`` or ``"float32"``.
        placement: where the weights go.

    Returns:
        the model in eval mode, and its processor.

    Raises:
        ConfigError: no such model, an argument is wrong, or it is damaged or incomplete.
        UnsupportedModelError: it has parts that cannot be converted.
    """
    where = placement or Placement()
    raw = raw_config(name)
    if is_llava_next(raw):
        options = {} if newline is None else {"newline": newline}
        conversion = plan_conversion(name, vision_tower=vision_tower, dtype=dtype, **options)
        model, processor = _from_conversion(conversion, where)
    else:
        mode = check_newline(newline or str(raw.get(NEWLINE_KEY, PLAIN)))
        if newline is not None and raw.get("model_type") != _ONEVISION:
            raise ConfigError(
                f"newline: got {newline!r} for {name!r} of type {raw.get('model_type')!r}, "
                "expected a LLaVA-Video or LLaVA-OneVision model. Leave it out."
            )
        try:
            model, processor = _from_transformers(name, mode, dtype, where)
        except (OSError, ValueError, ImportError) as error:
            raise ConfigError(
                f"got {name!r} that cannot be loaded ({first_line(error)}). Expected "
                "configuration, processor and weights in it, and what they need installed."
            ) from error
    return where.settle(model).eval(), processor


def raw_config(name: str) -> Mapping[str, Any]:
    """Read the config.json of a hub id or folder as it is.

    Raises:
        ConfigError: there is none.
    """
    if Path(name).is_dir():
        return read_config(Path(name))
    try:
        found: Mapping[str, Any] = PreTrainedConfig.get_config_dict(name)[0]
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"got {name!r}, expected the id of a model on the Hugging Face hub, or a folder. Check "
            "the spelling, the network, and HF_HUB_OFFLINE; private models need `hf auth login`. "
            f"({first_line(error)})"
        ) from error
    return found


def _from_transformers(name: str, newline: str, dtype: str, where: Placement) -> tuple[Any, Any]:
    if newline == PLAIN:
        processor = AutoProcessor.from_pretrained(name)
        kind = AutoModelForImageTextToText
        return kind.from_pretrained(name, dtype=dtype, **where.arguments), processor
    config = LlavaOnevisionConfig.from_pretrained(name)
    setattr(config, NEWLINE_KEY, newline)
    processor = LlavaVideoProcessor.from_pretrained(name).of(config)
    model = LlavaVideoForConditionalGeneration.from_pretrained(
        name, config=config, dtype=dtype, **where.arguments
    )
    return model, processor


def _from_conversion(conversion: Conversion, where: Placement) -> tuple[Any, Any]:
    """Read the tensors where they are; none is in memory twice."""
    moves = conversion.tensors.moves
    with open_files(move.stored.file for move in moves if move.stored is not None) as files:
        model = LlavaVideoForConditionalGeneration.from_pretrained(
            None,
            config=conversion.config,
            state_dict={move.target: move.read(files) for move in moves},
            dtype=conversion.config.dtype,
            **where.arguments,
        )
    model.generation_config = build_generation_config(conversion.tokenizer)
    processor = build_processor(conversion.tokenizer, conversion.config, LlavaVideoProcessor)
    return model, processor.of(conversion.config)
