"""Save and load a watched video: one safetensors file, its header in JSON; never pickle."""

import errno
import hashlib
import json
import re
import time
from collections.abc import Mapping
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import DynamicCache

from sttm.chat.cache_tensors import (
    KvDtype,
    LayerRecord,
    below,
    fill_layer,
    layer_devices,
    layer_record,
    layer_tensors,
    unpacked,
)
from sttm.chat.identity import FORMAT, fingerprint, method_key
from sttm.chat.prompt import Messages, Prefix
from sttm.chat.records import PrefillState, Source, Timings
from sttm.errors import SavedCacheError
from sttm.files import in_utf8, replace_file
from sttm.grid import VideoGrid
from sttm.methods import Method
from sttm.models import Adapter, Positions
from sttm.models.report import VideoReport
from sttm.plan import MergePlan

_KEY = "sttm"
_PLAN = ("group", "weight", "anchor")


class OtherFormatError(SavedCacheError):
    """A saved video is of another version of the format: older or newer, and not damaged."""


class _Report(BaseModel):
    grid: VideoGrid
    tokens_in: int
    tokens_out: int
    layer: int
    positions: Positions
    milliseconds: float


class Header(BaseModel):
    """Everything about a watched video that is no tensor."""

    model_config = ConfigDict(extra="forbid")

    format: Literal[5]
    key: str | None
    created: float | None
    model: str
    dtype: str
    kv_dtype: KvDtype | None
    method: str | None
    layer: int | None
    positions: Positions
    system: str | None
    messages: Messages
    before: str
    rest: str
    head: int
    next_position: int
    tokens_in: int
    sources: tuple[Source, ...]
    timings: Timings
    reports: list[_Report]
    layers: list[LayerRecord]

    def names(self) -> set[str]:
        """Name the tensors that must be there."""
        layers = ((f"layer.{i}", record.tensors) for i, record in enumerate(self.layers))
        plans = ((f"report.{i}", _PLAN) for i in range(len(self.reports)))
        parts = {f"{owner}.{name}" for owner, names in (*layers, *plans) for name in names}
        return {"ids"} | parts


def save_state(
    video: PrefillState,
    adapter: Adapter,
    path: str | PathLike[str],
    *,
    key: str | None = None,
    kv_dtype: KvDtype | None = None,
) -> None:
    """Store a watched video; an existing file is replaced only once the new one is complete.

    Args:
        video: to store.
        adapter: of its model.
        path: of the file.
        key: of the video in a store of many; files without one do not say when they were made.
        kv_dtype: to round keys and values to; None for exactly what they are.
    """
    prefix = video.prefix
    tensors, records = {"ids": video.ids}, []
    for index, layer in enumerate(video.cache.layers):
        parts = layer_tensors(layer, kv_dtype)
        records.append(layer_record(layer, parts))
        tensors |= {f"layer.{index}.{name}": t for name, t in parts.items()}
    for index, report in enumerate(video.reports):
        for name in _PLAN:
            # Two may be one, as in a plan that keeps all, which the format does not allow.
            tensors[f"report.{index}.{name}"] = getattr(report.plan, name).clone()
    header = Header(
        format=FORMAT,
        key=key,
        created=None if key is None else time.time(),
        model=fingerprint(adapter.model),
        dtype=str(adapter.model.dtype),
        kv_dtype=kv_dtype,
        method=video.method,
        layer=video.layer,
        positions=video.positions,
        system=prefix.system,
        messages=prefix.messages,
        before=prefix.before,
        rest=prefix.rest,
        head=len(prefix.head),
        next_position=video.next_position,
        tokens_in=video.tokens_in,
        sources=tuple(replace(each, path=in_utf8(each.path)) for each in video.sources),
        timings=video.timings,
        reports=[
            _Report(**{k: getattr(r, k) for k in _Report.model_fields}) for r in video.reports
        ],
        layers=records,
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


def load_state(
    adapter: Adapter,
    method: Method | None,
    path: str | PathLike[str],
    *,
    key: str | None = None,
) -> PrefillState:
    """Load a watched video for the model that it was made with.

    Args:
        adapter: of the model.
        method: that must have reduced it; None takes what any has.
        path: of the file.
        key: that it must have in a store of many; None takes what any has.

    Raises:
        SavedCacheError: no such file, damaged, or of another format version, model, dtype, method
            or key.
    """
    header, tensors = read_file(Path(path), key)
    _check_owner(path, header, adapter.model, method)
    cache = DynamicCache(config=adapter.config)
    if len(cache.layers) != len(header.layers):
        raise SavedCacheError(
            f"{path}: got {len(header.layers)} layers, expected {len(cache.layers)}. "
            "Watch the video again."
        )
    dtype = getattr(torch, header.dtype.removeprefix("torch."))
    for index, (record, device) in enumerate(zip(header.layers, layer_devices(adapter))):
        parts = unpacked(below(tensors, f"layer.{index}."), header.kv_dtype, dtype)
        fill_layer(cache, index, record, {name: part.to(device) for name, part in parts.items()})
    ids = tensors["ids"]
    prefix = Prefix(
        header.system, header.messages, header.before, header.rest, ids[: header.head].clone()
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
        sources=header.sources,
        timings=header.timings,
    )


def _check_owner(
    path: str | PathLike[str], header: Header, model: Any, method: Method | None
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


def digest(header: str, tensors: Mapping[str, torch.Tensor]) -> str:
    """Hash a header and the names, types, shapes and bytes of tensors on the CPU (SHA-256, hex)."""
    found = hashlib.sha256(header.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        found.update(f"\0{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _load_report(index: int, record: _Report, tensors: dict[str, torch.Tensor]) -> VideoReport:
    parts = below(tensors, f"report.{index}.")
    plan = MergePlan(group=parts["group"], weight=parts["weight"], anchor=parts["anchor"])
    return VideoReport(**dict(record), plan=plan)


def read_header(path: Path) -> Header:
    """Read what a file says about its video; the checksum is not compared.

    Raises:
        SavedCacheError: no such file, damaged, cut off, or of another format version.
    """
    return _open(path, with_tensors=False)[1]


def read_file(path: Path, key: str | None = None) -> tuple[Header, dict[str, torch.Tensor]]:
    """Read a whole file and compare its checksum.

    Args:
        path: of the file.
        key: that it must have; None takes what any has.

    Raises:
        SavedCacheError: see `read_header`; or its content or its key is another.
    """
    checksum, header, text, tensors = _open(path, with_tensors=True)
    if checksum != digest(text, tensors):
        raise SavedCacheError(
            f"{path}: got content that does not match its checksum, expected what save() wrote. "
            "The file was damaged. Watch the video again."
        )
    lacking = header.names() - tensors.keys()
    if lacking:
        raise SavedCacheError(
            f"{path}: got a file that lacks {', '.join(sorted(lacking)[:3])}, expected one that "
            "save() wrote. Watch the video again."
        )
    if key is not None and header.key != key:
        raise SavedCacheError(
            f"{path}: got the video of key {header.key}, expected that of {key}. The file was "
            "renamed. Watch the video again."
        )
    return header, tensors


def _open(path: Path, *, with_tensors: bool) -> tuple[str, Header, str, dict[str, torch.Tensor]]:
    """Return the checksum, the header, its text, and the tensors in memory of their own."""
    if not path.is_file():
        raise SavedCacheError(f"{path}: got no such file, expected one that save() wrote.")
    try:
        with _tensors_of(path) as file:
            metadata = file.metadata() or {}
            names = file.keys() if with_tensors else ()
            # Copies: another process may cut off the file, and what is mapped of it would be gone.
            tensors = {name: file.get_tensor(name).clone() for name in names}
    except SafetensorError as error:
        raise SavedCacheError(
            f"{path}: got a damaged file ({error}), expected one that save() wrote. "
            "Watch the video again."
        ) from error
    except OSError as error:
        raise SavedCacheError(
            f"{path}: got a file that cannot be read ({error}), expected one that save() wrote."
        ) from error
    checksum, _, text = metadata.get(_KEY, "").partition(" ")
    return checksum, _parse(path, text), text, tensors


def _tensors_of(path: Path) -> Any:
    """Open a file of tensors, which safetensors and then torch do."""
    try:
        return safe_open(path, framework="pt")
    except RuntimeError as error:  # torch's: another process has deleted it meanwhile
        raise OSError(str(error)) from error


def _parse(path: Path, text: str) -> Header:
    try:
        found = json.loads(text or "null")
        version = found.get("format") if isinstance(found, dict) else None
        if version != FORMAT:
            raise OtherFormatError(
                f"{path}: got format {version!r}, expected {FORMAT}. Watch the video again, "
                "or use the version of sttm that saved it."
            )
        return Header.model_validate(found)
    except (json.JSONDecodeError, ValidationError, RecursionError) as error:
        raise SavedCacheError(
            f"{path}: got a damaged header ({error}), expected one that save() wrote. "
            "Watch the video again."
        ) from error
