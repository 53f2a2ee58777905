"""Save and load a watched video: one safetensors file, its header in JSON; never pickle."""

import errno
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import DynamicCache

from sttm.chat.prompt import Prefix
from sttm.chat.records import PrefillState, Source, Timings
from sttm.errors import SavedCacheError
from sttm.files import in_utf8, replace_file
from sttm.grid import VideoGrid
from sttm.methods import Method
from sttm.models import Adapter, Positions
from sttm.models.cache import ReducedLayer, adopt_layer
from sttm.models.report import VideoReport
from sttm.plan import MergePlan

FORMAT: Literal[2] = 2
_KEY = "sttm"
_STATES = ("conv_states", "recurrent_states")
_PLAN = ("group", "weight", "anchor")


class _Report(BaseModel):
    grid: VideoGrid
    tokens_in: int
    tokens_out: int
    layer: int
    positions: Positions
    milliseconds: float


class _Layer(BaseModel):
    tensors: list[str]
    active: bool = False
    removed: int = 0
    floor: int = 0
    length: int | None = None


class _Header(BaseModel):
    """Everything about a watched video that is no tensor."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[2]
    model: str
    dtype: str
    method: str | None
    layer: int | None
    positions: Positions
    system: str | None
    context: str
    before: str
    rest: str
    head: int
    next_position: int
    tokens_in: int
    source: Source
    timings: Timings
    reports: list[_Report]
    layers: list[_Layer]

    def names(self) -> set[str]:
        """Name the tensors that must be there."""
        layers = ((f"layer.{i}", record.tensors) for i, record in enumerate(self.layers))
        plans = ((f"report.{i}", _PLAN) for i in range(len(self.reports)))
        parts = {f"{owner}.{name}" for owner, names in (*layers, *plans) for name in names}
        return {"ids"} | parts


def save_state(video: PrefillState, adapter: Adapter, path: str | PathLike[str]) -> None:
    """Store a watched video; an existing file is replaced only once the new one is complete.

    Args:
        video: to store.
        adapter: of its model.
        path: of the file.
    """
    prefix = video.prefix
    tensors = {"ids": video.ids}
    for index, layer in enumerate(video.cache.layers):
        tensors |= {f"layer.{index}.{name}": t for name, t in _layer_tensors(layer).items()}
    for index, report in enumerate(video.reports):
        for name in _PLAN:
            tensors[f"report.{index}.{name}"] = getattr(report.plan, name)
    header = _Header(
        format=FORMAT,
        model=fingerprint(adapter.model),
        dtype=str(adapter.model.dtype),
        method=video.method,
        layer=video.layer,
        positions=video.positions,
        system=prefix.system,
        context=prefix.context,
        before=prefix.before,
        rest=prefix.rest,
        head=len(prefix.head),
        next_position=video.next_position,
        tokens_in=video.tokens_in,
        source=replace(video.source, path=in_utf8(video.source.path)),
        timings=video.timings,
        reports=[
            _Report(**{k: getattr(r, k) for k in _Report.model_fields}) for r in video.reports
        ],
        layers=[_layer_record(layer) for layer in video.cache.layers],
    )
    copies = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = header.model_dump_json()
    # One entry: the order of several would change from run to run.
    metadata = {_KEY: f"{digest(text, copies)} {text}"}

    def write(place: Path) -> None:
        try:
            save_file(copies, place, metadata=metadata)
        except SafetensorError as error:  # its way to say what the operating system refused
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]) if number else errno.EIO, str(error)) from error

    replace_file(path, write)


def load_state(adapter: Adapter, method: Method | None, path: str | PathLike[str]) -> PrefillState:
    """Load a watched video for the model that it was made with.

    Args:
        adapter: of the model.
        method: that must have reduced it; None takes what any has.
        path: of the file.

    Raises:
        SavedCacheError: no such file, damaged, or of another format version, model, dtype or
            method.
    """
    header, tensors = _read(Path(path))
    _check_owner(path, header, adapter.model, method)
    lacking = header.names() - tensors.keys()
    if lacking:
        raise SavedCacheError(
            f"{path}: got a file that lacks {', '.join(sorted(lacking)[:3])}, expected one that "
            "save() wrote. Watch the video again."
        )
    cache = DynamicCache(config=adapter.config)
    if len(cache.layers) != len(header.layers):
        raise SavedCacheError(
            f"{path}: got {len(header.layers)} layers, expected {len(cache.layers)}. "
            "Watch the video again."
        )
    device = adapter.model.device
    for index, record in enumerate(header.layers):
        _fill_layer(cache, index, record, _below(tensors, f"layer.{index}.", device))
    ids = tensors["ids"]
    prefix = Prefix(
        header.system, header.context, header.before, header.rest, ids[: header.head].clone()
    )
    return PrefillState(
        cache=cache,
        ids=ids,
        prefix=prefix,
        next_position=header.next_position,
        layer=header.layer,
        positions=header.positions,
        method=header.method,
        tokens_in=header.tokens_in,
        reports=tuple(_load_report(i, r, tensors) for i, r in enumerate(header.reports)),
        source=header.source,
        timings=header.timings,
    )


def _check_owner(
    path: str | PathLike[str], header: _Header, model: Any, method: Method | None
) -> None:
    """Refuse what was made by another model, in another dtype, or by another method."""
    if header.dtype != str(model.dtype):
        raise SavedCacheError(
            f"{path}: got a cache in {header.dtype}, expected {model.dtype} as the model has it. "
            "Load the model in that dtype, or watch the video again."
        )
    if header.model != fingerprint(model):
        raise SavedCacheError(
            f"{path}: got a cache of another model, expected one of this "
            f"{type(model).__name__} (same configuration and weights). Watch the video again."
        )
    own = method_key(method)
    if own is not None and header.method != own:
        raise SavedCacheError(
            f"{path}: got a video that was reduced by {header.method or 'nothing'}, expected this "
            f"chat's {own}. Load it in a chat with that method or with none, or watch it again."
        )


def method_key(method: Method | None) -> str | None:
    """Write a method with all its options, to tell whether two are the same; None for none."""
    if method is None:
        return None
    known: Any = method
    names = [field.name for field in fields(known)] if is_dataclass(known) else []
    options = ", ".join(f"{name}={getattr(known, name)!r}" for name in names)
    return f"{method.name}({options})"


def digest(header: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """Hash a header and the names, types, shapes and bytes of tensors on the CPU (SHA-256, hex)."""
    found = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        found.update(f"\0{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def fingerprint(model: Any) -> str:
    """Hash what a cache depends on: the configuration, and a sample of the weights."""
    config = json.loads(model.config.to_json_string(use_diff=False))
    for name in ("transformers_version", "_name_or_path", "architectures"):
        config.pop(name, None)
    digest = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for parameter in model.parameters():
        digest.update(parameter.detach().flatten()[:16].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _layer_tensors(layer: Any) -> dict[str, torch.Tensor]:
    tensors = {
        name: getattr(layer, name)
        for name in ("keys", "values")
        if getattr(layer, name, None) is not None
    }
    for name in ("valid", "shift"):
        if getattr(layer, name, None) is not None:
            # All layers share these, which the format does not allow.
            tensors[name] = getattr(layer, name).clone()
    for name in _STATES:
        for index, state in getattr(layer, name, {}).items():
            if state is not None:
                tensors[f"{name}.{index}"] = state
    return tensors


def _layer_record(layer: Any) -> _Layer:
    record = _Layer(tensors=[*_layer_tensors(layer)])
    record.length = getattr(layer, "cumulative_length", None)
    if isinstance(layer, ReducedLayer):
        record.active, record.removed, record.floor = (
            layer.active,
            layer.removed,
            layer.crop_limit,
        )
    return record


def _fill_layer(
    cache: DynamicCache, index: int, record: _Layer, tensors: dict[str, torch.Tensor]
) -> None:
    layer: Any = cache.layers[index]
    for name in _STATES:
        states = {int(key): t for key, t in _below(tensors, f"{name}.").items()}
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
        layer.valid, layer.shift = tensors.get("valid"), tensors.get("shift")
    layer.lazy_initialization(tensors["keys"], tensors["values"])
    layer.keys, layer.values = tensors["keys"], tensors["values"]
    if record.length is not None:
        layer.cumulative_length = record.length


def _load_report(index: int, record: _Report, tensors: dict[str, torch.Tensor]) -> VideoReport:
    parts = _below(tensors, f"report.{index}.")
    plan = MergePlan(group=parts["group"], weight=parts["weight"], anchor=parts["anchor"])
    return VideoReport(**dict(record), plan=plan)


def _below(
    tensors: dict[str, torch.Tensor], prefix: str, device: Any = None
) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix(prefix): tensor.to(device)
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def _read(path: Path) -> tuple[_Header, dict[str, torch.Tensor]]:
    if not path.is_file():
        raise SavedCacheError(f"{path}: got no such file, expected one that save() wrote.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise SavedCacheError(
            f"{path}: got a damaged file ({error}), expected one that save() wrote. "
            "Watch the video again."
        ) from error
    checksum, _, text = metadata.get(_KEY, "").partition(" ")
    try:
        found = json.loads(text or "null")
        version = found.get("format") if isinstance(found, dict) else None
        if version != FORMAT:
            raise SavedCacheError(
                f"{path}: got format {version!r}, expected {FORMAT}. Watch the video again, "
                "or use the version of sttm that saved it."
            )
        header = _Header.model_validate(found)
    except (json.JSONDecodeError, ValidationError, RecursionError) as error:
        raise SavedCacheError(
            f"{path}: got a damaged header ({error}), expected one that save() wrote. "
            "Watch the video again."
        ) from error
    if checksum != digest(text, tensors):
        raise SavedCacheError(
            f"{path}: got content that does not match its checksum, expected what save() wrote. "
            "The file was damaged. Watch the video again."
        )
    return header, tensors
