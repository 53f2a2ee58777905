"""What a LLaVA-NeXT checkpoint says about itself."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from pydantic import BaseModel, ConfigDict, ValidationError

from sttm.checkpoints.shards import Stored, read_headers
from sttm.errors import ConfigError, UnsupportedModelError, first_line

CONFIG = "config.json"
MARK = "mm_vision_tower"  # only configurations of LLaVA's own code have it
_WANTED = ("*.json", "*.safetensors", "*.txt", "*.jinja", "*.model")
_ACCEPTED: dict[str, tuple[Any, ...]] = {
    "mm_projector_type": ("mlp2x_gelu",),
    "mm_spatial_pool_mode": (None, "bilinear"),
    "mm_spatial_pool_stride": (None, 2),
    "mm_resampler_type": (None, "spatial_pool"),
    "add_faster_video": (None, False),
    "mm_use_im_start_end": (None, False),
}


class NextConfig(BaseModel):
    """The part of config.json that the conversion reads."""

    model_config = ConfigDict(extra="ignore", frozen=True, protected_namespaces=())

    mm_vision_tower: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    hidden_act: str = "silu"
    max_position_embeddings: int = 32768
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1_000_000.0
    rope_scaling: dict[str, Any] | None = None
    tie_word_embeddings: bool = False
    use_sliding_window: bool = False
    sliding_window: int | None = None
    max_window_layers: int | None = None
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    mm_newline_position: str = "one_token"
    add_time_instruction: bool = False
    image_aspect_ratio: str | None = None
    image_grid_pinpoints: str | list[tuple[int, int]] | None = None


@dataclass(frozen=True)
class Source:
    """A LLaVA-NeXT checkpoint on disk.

    Args:
        folder: where it is.
        config: its configuration.
        tensors: what its files hold.
    """

    folder: Path
    config: NextConfig
    tensors: Mapping[str, Stored]


def is_llava_next(config: Mapping[str, Any]) -> bool:
    """Return whether a config.json is one of LLaVA's own code."""
    return MARK in config and "text_config" not in config


def open_source(checkpoint: str) -> Source:
    """Look at a checkpoint, downloading it if it is no folder.

    Raises:
        ConfigError: no such checkpoint, or a damaged or incomplete one.
        UnsupportedModelError: not in LLaVA-NeXT's layout, or with parts that cannot be converted.
    """
    folder = fetch(checkpoint)
    raw = read_config(folder)
    if not is_llava_next(raw):
        raise _not_llava_next(checkpoint, raw)
    _check_supported(checkpoint, raw)
    try:
        config = NextConfig.model_validate(raw)
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, e['loc']))}: {e['msg'].lower()}" for e in error.errors()
        )
        raise ConfigError(
            f"{folder / CONFIG}: got a configuration with errors ({wrong}), expected LLaVA-NeXT's. "
            "Download it again."
        ) from error
    return Source(folder, config, read_headers(folder))


def fetch(name: str) -> Path:
    """Return the folder of a checkpoint; what is no folder is downloaded from the hub.

    Raises:
        ConfigError: it is neither a folder nor on the hub.
    """
    if Path(name).is_dir():
        return Path(name)
    try:
        return Path(snapshot_download(name, allow_patterns=list(_WANTED)))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ConfigError(
            f"got {name!r}, expected a folder, or the id of a model on the Hugging Face hub. Check "
            f"the spelling, the network, and HF_HUB_OFFLINE. ({first_line(error)})"
        ) from error


def read_config(folder: Path, name: str = CONFIG) -> dict[str, Any]:
    """Read the config.json of a folder, or another file of it that holds an object.

    Raises:
        ConfigError: there is none, or it is damaged.
    """
    path = folder / name
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(
            f"{folder}: got no {name}, expected a checkpoint. Name the folder that holds it."
        ) from error
    except ValueError as error:
        raise ConfigError(f"{path}: got no JSON ({error}). Download it again.") from error
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: got {type(found).__name__}, expected an object.")
    return found


def _not_llava_next(checkpoint: str, raw: Mapping[str, Any]) -> UnsupportedModelError:
    kind = raw.get("model_type")
    advice = "See `sttm models` for what is supported."
    if "text_config" in raw or "vision_config" in raw:
        advice = "It is in transformers' layout already: give it to --model as it is."
    return UnsupportedModelError(
        f"got {checkpoint} of type {kind!r} without {MARK} in its {CONFIG}, expected a checkpoint "
        f"in LLaVA-NeXT's layout, such as lmms-lab/LLaVA-Video-7B-Qwen2. {advice}"
    )


def _check_supported(checkpoint: str, raw: Mapping[str, Any]) -> None:
    for key, accepted in _ACCEPTED.items():
        if raw.get(key) not in accepted:
            shown = " or ".join(repr(value) for value in accepted if value is not None)
            raise UnsupportedModelError(
                f"{checkpoint}: got {key}={raw.get(key)!r}, expected {shown}: transformers' "
                "LLaVA-OneVision classes have nothing else. This checkpoint cannot be converted."
            )
    names = raw.get("architectures") or []
    if names and not any("Qwen" in str(name) for name in names):
        raise UnsupportedModelError(
            f"{checkpoint}: got {', '.join(map(str, names))}, expected LlavaQwenForCausalLM: only "
            "checkpoints with a Qwen2 decoder can be converted."
        )
