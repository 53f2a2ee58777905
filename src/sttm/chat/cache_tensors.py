"""The layers of a cache as named tensors with a record, and back."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal

import torch
from pydantic import BaseModel
from transformers import DynamicCache

from sttm.chat.records import PrefillState, fork
from sttm.models import Adapter
from sttm.models.cache import ReducedLayer, adopt_layer

KvDtype = Literal["bfloat16", "float8"]
_KV = ("keys", "values")
_PER_ENTRY = ("valid", "shift", "video_mask")
_STATES = ("conv_states", "recurrent_states")
_MOST = torch.finfo(torch.float8_e4m3fn).max


class LayerRecord(BaseModel):
    """What a cache layer is beside its tensors.

    Attributes:
        tensors: their names.
        active: see `ReducedLayer`.
        removed: see there.
        floor: ``crop_limit`` there.
        length: tokens that a sliding-window layer has seen; None for others.
    """

    tensors: list[str]
    active: bool = False
    removed: int = 0
    floor: int = 0
    length: int | None = None


def layer_devices(adapter: Adapter) -> list[torch.device]:
    """Return where each decoder layer of a model is, and so its layer of a cache."""
    return [next(layer.parameters()).device for layer in adapter.text.layers]


def layer_tensors(layer: Any, kv_dtype: KvDtype | None) -> dict[str, torch.Tensor]:
    """Return the tensors of a cache layer by name, keys and values rounded to ``kv_dtype``."""
    tensors: dict[str, torch.Tensor] = {}
    for name in _KV:
        if getattr(layer, name, None) is not None:
            tensors |= packed(name, getattr(layer, name), kv_dtype)
    for name in _PER_ENTRY:
        if getattr(layer, name, None) is not None:
            # All layers share these, which the format does not allow.
            tensors[name] = getattr(layer, name).clone()
    for name in _STATES:
        for index, state in getattr(layer, name, {}).items():
            if state is not None:
                tensors[f"{name}.{index}"] = state
    return tensors


def packed(name: str, x: torch.Tensor, kv_dtype: KvDtype | None) -> dict[str, torch.Tensor]:
    """Round keys or values ``(B, H, N, D)``; float8 has a scale for each head and channel."""
    if kv_dtype is None:
        return {name: x}
    if kv_dtype == "bfloat16":
        return {name: x.bfloat16()}
    scale = x.float().abs().amax(-2, keepdim=True).clamp(min=1e-12) / _MOST
    return {name: (x / scale).to(torch.float8_e4m3fn), f"{name}_scale": scale}


def rounded(video: PrefillState, kv_dtype: KvDtype) -> PrefillState:
    """Round keys and values as storing and loading them does."""
    cache = fork(video.cache)
    for layer in cache.layers:
        for name in _KV:
            x = getattr(layer, name, None)
            if x is not None:
                parts = packed(name, x, kv_dtype)
                setattr(layer, name, unpacked(parts, kv_dtype, x.dtype)[name])
    return replace(video, cache=cache)


def unpacked(
    tensors: dict[str, torch.Tensor], kv_dtype: KvDtype | None, dtype: torch.dtype
) -> dict[str, torch.Tensor]:
    """Return the tensors of a layer with keys and values in ``dtype`` again.

    Args:
        tensors: that `layer_tensors` gave.
        kv_dtype: that keys and values were rounded to; None if they were not.
        dtype: of the model.
    """
    if kv_dtype is not None:
        for name in tensors.keys() & set(_KV):
            scale = tensors.pop(f"{name}_scale", 1.0)
            tensors[name] = (tensors[name].float() * scale).to(dtype)
    return tensors


def layer_record(layer: Any, names: Iterable[str]) -> LayerRecord:
    """Return the record of a cache layer whose tensors have these names."""
    record = LayerRecord(tensors=[*names])
    record.length = getattr(layer, "cumulative_length", None)
    if isinstance(layer, ReducedLayer):
        record.active, record.removed, record.floor = (
            layer.active,
            layer.removed,
            layer.crop_limit,
        )
    return record


def fill_layer(
    cache: DynamicCache, index: int, record: LayerRecord, tensors: dict[str, torch.Tensor]
) -> None:
    """Put tensors into an empty layer of a cache.

    Args:
        cache: a fresh one of the model.
        index: of the layer.
        record: of the layer.
        tensors: by name, that `unpacked` gave.
    """
    layer: Any = cache.layers[index]
    for name in _STATES:
        states = {int(key): t for key, t in below(tensors, f"{name}.").items()}
        for key, state in states.items():
            layer.lazy_initialization(**{name: state}, state_idx=key)
            getattr(layer, name)[key].copy_(state)
            layer.has_previous_state[key] = True
    if "keys" not in tensors:
        return
    if record.active or record.floor:
        layer = adopt_layer(cache, index)
        layer.active, layer.removed, layer.crop_limit = (
            record.active,
            record.removed,
            record.floor,
        )
        for name in _PER_ENTRY:
            setattr(layer, name, tensors.get(name))
    layer.lazy_initialization(tensors["keys"], tensors["values"])
    layer.keys, layer.values = tensors["keys"], tensors["values"]
    if record.length is not None:
        layer.cumulative_length = record.length


def below(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
