"""What tells two watched videos apart: the model, the method, the frames, the prompt."""

import functools
import hashlib
import inspect
import json
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
import transformers

import sttm
from sttm.chat.prompt import Messages, check_messages, render
from sttm.errors import ConfigError, UnsupportedModelError
from sttm.methods import Method
from sttm.video import Sampling, Video
from sttm.video.container import check_file

if TYPE_CHECKING:
    from sttm.chat.session import VideoChat

FORMAT: Literal[5] = 5  # of saved videos
_WIDTH = 512  # words of eight bytes per row of the sums that stand for a tensor
# What a layer of PEFT adds to its weights, beside the weights.
_ADAPTERS = ("active_adapters", "disable_adapters", "merged_adapters", "scaling")
_PLAIN = (type(None), bool, int, float, complex, str, bytes, torch.dtype, torch.device, range, Path)
_known: "WeakKeyDictionary[Any, tuple[object, str]]" = WeakKeyDictionary()


def fingerprint(model: Any) -> str:
    """Hash what a cache depends on: the configuration, all weights, and the adapters in use.

    The weights are read again only if one was replaced or changed in place.

    Args:
        model: a transformers model.

    Raises:
        UnsupportedModelError: weights are not in memory.
    """
    weights = {n: w for n, w in model.state_dict().items() if isinstance(w, torch.Tensor)}
    weights = {n: getattr(w, "to_local", lambda w=w: w)() for n, w in weights.items()}
    facts = json.dumps([_config(model), _adapters(model)], sort_keys=True, default=str)
    version = facts, [(n, w.data_ptr(), w._version, w.dtype) for n, w in weights.items()]
    before, known = _known.get(model, (None, ""))
    if before != version:
        digest = hashlib.sha256(facts.encode())
        for name, weight in weights.items():
            digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}".encode())
            digest.update(_sums(name, weight))
        known = digest.hexdigest()
        _known[model] = version, known
    return known


def _config(model: Any) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(model.config.to_json_string(use_diff=False))
    for name in ("transformers_version", "_name_or_path", "architectures"):
        config.pop(name, None)
    return config


def _adapters(model: Any) -> list[Any]:
    """List which adapters of PEFT are in use, layer by layer; their weights do not tell."""
    layers = ((n, m) for n, m in model.named_modules() if hasattr(m, "merged_adapters"))
    return [[name, [getattr(m, key, None) for key in _ADAPTERS]] for name, m in layers]


def _sums(name: str, weight: torch.Tensor) -> bytes:
    """Sum a tensor's bits, by row and by column, as integers: exact in any order, on any device."""
    if weight.is_meta:
        raise UnsupportedModelError(
            f"got a model whose {name} is offloaded, expected all weights in memory: a stored "
            "video must be told from that of another model. Use a device_map that holds them."
        )
    data = weight.detach().contiguous().reshape(-1).view(torch.uint8)
    if data.storage_offset() % 8:  # a part of another tensor, which no view of eight bytes can be
        data = data.clone()
    whole = len(data) // (8 * _WIDTH) * (8 * _WIDTH)
    rows = data[:whole].view(torch.int64).view(-1, _WIDTH)
    parts = rows.sum(0).view(torch.uint8), rows.sum(1).view(torch.uint8), data[whole:]
    return torch.cat(parts).cpu().numpy().tobytes()


def method_key(method: Method | None) -> str | None:
    """Write a method with all its options, to tell whether two are the same; None for none.

    Of a class that is no dataclass, everything that its object holds counts. An option whose values
    cannot be told apart makes a method differ from every other one, and from itself.
    """
    if method is None:
        return None
    try:
        return f"{method.name}({_options(method)})"
    except ConfigError:
        return f"{method.name}(options that cannot be compared, {uuid.uuid4().hex})"


def method_digest(method: Method | None) -> str:
    """Hash a method: its options, its class and, unless it is of sttm, its module's source.

    Raises:
        ConfigError: an option is of a type whose values cannot be told apart, or the class was made
            in a function, whose variables it may see.
    """
    if method is None:
        return ""
    cls = type(method)
    if "<locals>" in cls.__qualname__:
        raise ConfigError(
            f"method: got the class {cls.__qualname__}, which was made in a function, expected one "
            "at the top of a module: a stored video must be told from one that was reduced "
            "otherwise. Move it there."
        )
    return digest_of(_options(method), *(part for kind in cls.__mro__ for part in _code(kind)))


def _options(thing: Any) -> str:
    return ", ".join(f"{name}={_written(v, name)}" for name, v in _state(thing).items())


def _state(thing: Any) -> dict[str, Any]:
    """Return the fields, attributes and slots of an object, without cached properties."""
    cls: Any = type(thing)
    names = [field.name for field in fields(thing)] if is_dataclass(cls) else []
    for kind in cls.__mro__:
        slots = vars(kind).get("__slots__", ())
        for name in [slots] if isinstance(slots, str) else slots:
            is_mangled = name.startswith("__") and not name.endswith("__")
            names.append(f"_{kind.__name__.lstrip('_')}{name}" if is_mangled else name)
    names += sorted(getattr(thing, "__dict__", ()))
    cached = functools.cached_property
    lasting = [n for n in names if not isinstance(getattr(cls, n, None), cached)]
    return {name: getattr(thing, name) for name in lasting if hasattr(thing, name)}


def _written(value: Any, name: str) -> str:
    """Write a value so that two that differ are written differently."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Enum):
        return f"{type(value).__qualname__}.{value.name}"
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        value = torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, torch.Tensor):
        data = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        return f"{value.dtype}{list(value.shape)}:{hashlib.sha256(data).hexdigest()}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}[{', '.join(_written(v, name) for v in value)}]"
    if isinstance(value, set | frozenset):
        return f"set[{', '.join(sorted(_written(v, name) for v in value))}]"
    if isinstance(value, Mapping):
        pairs = sorted((_written(k, name), _written(v, name)) for k, v in value.items())
        return f"{{{', '.join(f'{k}: {v}' for k, v in pairs)}}}"
    if isinstance(value, Method) or (is_dataclass(value) and not isinstance(value, type)):
        return f"{type(value).__qualname__}({_options(value)})"
    raise ConfigError(
        f"method: got {name} of type {type(value).__name__}, expected numbers, text, tensors, "
        "lists of them or dataclasses: a stored video must be told from one that was reduced "
        "otherwise. Make it one of these."
    )


def _code(cls: type) -> Iterator[object]:
    """Yield what decides how a class plans: its constants, and its source, which may be edited."""
    yield f"{cls.__module__}.{cls.__qualname__}"
    yield {name: repr(v) for name, v in vars(cls).items() if isinstance(v, _PLAIN)}
    if cls.__module__.split(".")[0] in ("sttm", "abc", "builtins"):
        return
    try:
        yield inspect.getsource(sys.modules[cls.__module__])
    except (OSError, TypeError, KeyError):  # typed into an interpreter
        functions = [getattr(v, "__wrapped__", v) for v in vars(cls).values()]
        yield [f.__code__.co_code.hex() for f in functions if inspect.isfunction(f)]


def content_digest(video: Video | str | PathLike[str]) -> str:
    """Hash a file's bytes, or decoded frames with their times; names do not count.

    Raises:
        VideoError: there is no such file.
    """
    if not isinstance(video, Video):
        with check_file(video, "video").open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    times = video.timestamps, video.indices, video.duration, video.fps, video.total_frames
    digest = hashlib.sha256(repr((times, video.frames.shape)).encode())
    digest.update(np.ascontiguousarray(video.frames).data)
    return digest.hexdigest()


def digest_of(*facts: object) -> str:
    """Hash facts that are written as JSON, in their order."""
    return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()


def video_key(
    chat: "VideoChat",
    contents: Sequence[tuple[str, Sampling | None]],
    messages: Messages,
    dtype: str | None,
) -> str:
    """Hash everything that decides what a chat has in its cache once it has watched some videos.

    Args:
        chat: that watches.
        contents: of the videos, in their order: see `content_digest`, and the sampling of their
            frames; None if the content is that of frames.
        messages: in which the videos are shown.
        dtype: of keys and values where they are stored; None for the model's.

    Returns:
        64 hexadecimal digits.

    Raises:
        ConfigError: the context is no text, or the method cannot be told from others.
        UnsupportedModelError: the model cannot, see `fingerprint`.
    """
    check_messages(messages, chat.processor)
    # 1 frame per second is 1.0.
    used = [(c, s and repr(replace(s, fps=float(s.fps)))) for c, s in contents]
    prompt = render(chat.processor, chat.system, messages, [], "")
    return digest_of(
        *(FORMAT, sttm.__version__, transformers.__version__, dtype),
        *(fingerprint(chat.adapter.model), str(chat.adapter.model.dtype)),
        *(method_digest(chat.method), chat.layer, chat.positions),
        *(chat.encoding.dedupe, chat.encoding.reuse),
        *(used, chat.processor.to_json_string()),
        *(prompt, chat.processor.tokenizer(prompt, add_special_tokens=False)["input_ids"]),
    )
