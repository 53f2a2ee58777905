"""The vision tower of a LLaVA-NeXT checkpoint: in it, or the published one it was trained with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sttm.checkpoints.shards import Stored, read_headers
from sttm.checkpoints.source import Source, fetch, read_config
from sttm.errors import ConfigError, UnsupportedModelError

INSIDE = "model.vision_tower.vision_tower."  # what LLaVA puts in front of the tower's own names
_OWN = "vision_model."
# google/siglip-so400m-patch14-384; LLaVA-NeXT's code has it written down, too.
_SO400M = "siglip-so400m-patch14-384"
_SO400M_CONFIG = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 384,
    "patch_size": 14,
    "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6,
}


@dataclass(frozen=True)
class Tower:
    """A SigLIP vision tower.

    Args:
        config: its configuration, all of its layers counted.
        prefix: what its names begin with, ``vision_model.`` included.
        tensors: what the files hold, by whole name; other parts of the model may be among them.
        own: whether it is in the checkpoint itself.
    """

    config: dict[str, Any]
    prefix: str
    tensors: Mapping[str, Stored]
    own: bool

    @property
    def dropped(self) -> int:
        """Index of the last layer, which LLaVA does not use."""
        return int(self.config["num_hidden_layers"]) - 1


def find_tower(source: Source, elsewhere: str | None) -> Tower:
    """Find the tower of a checkpoint.

    Args:
        source: the checkpoint; if the tower is in it, that one is used, since it may be trained.
        elsewhere: folder or hub id of the tower; None for the one that config.json names.

    Raises:
        ConfigError: there is none.
        UnsupportedModelError: it is no SigLIP.
    """
    own = {name: stored for name, stored in source.tensors.items() if name.startswith(INSIDE)}
    named = source.config.mm_vision_tower
    if own and elsewhere is None and _SO400M in named:
        return Tower(dict(_SO400M_CONFIG), INSIDE + _OWN, own, own=True)
    if elsewhere is None and "siglip" not in named.lower():
        raise UnsupportedModelError(
            f"{source.folder}: got the vision tower {named!r}, expected a SigLIP. If it is one, "
            "name its folder or id with --vision-tower."
        )
    name = elsewhere or named
    try:
        folder = fetch(name)
        config = _vision_config(name, read_config(folder))
        if own:
            return Tower(config, INSIDE + _OWN, own, own=True)
        found = read_headers(folder)
        # transformers 5 saves a tower by itself without the prefix.
        prefix = _OWN if any(key.startswith(_OWN) for key in found) else ""
        return Tower(config, prefix, found, own=False)
    except ConfigError as error:
        why = "its configuration is needed" if own else "it is not in the checkpoint"
        raise ConfigError(
            f"{source.folder}: its vision tower {name!r} cannot be read ({error}), and {why}. "
            "Name its folder or id with --vision-tower."
        ) from error


def _vision_config(name: str, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Read a SigLIP configuration, of the tower alone or of both towers."""
    if not str(raw.get("model_type")).startswith("siglip"):
        raise UnsupportedModelError(
            f"--vision-tower: got {name!r} of type {raw.get('model_type')!r}, expected a SigLIP, "
            "such as google/siglip-so400m-patch14-384."
        )
    from transformers import SiglipVisionConfig

    own = raw.get("vision_config", raw)
    whole = SiglipVisionConfig(
        **{key: value for key, value in own.items() if key in _SO400M_CONFIG}
    )
    return {key: getattr(whole, key) for key in _SO400M_CONFIG}
