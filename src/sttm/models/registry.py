"""Which adapter serves which model."""

from importlib.metadata import version
from typing import Any, TypeVar

import torch

from sttm import plugins
from sttm.errors import ConfigError, UnsupportedModelError
from sttm.models import families
from sttm.models.adapter import Adapter
from sttm.models.transformers_api import pretrained
from sttm.models.versions import versions_for

_ADAPTERS: list[type[Adapter]] = []
_BY_TYPE: dict[str, type[Adapter]] = {}
AdapterClass = TypeVar("AdapterClass", bound=type[Adapter])


def register_family(cls: AdapterClass) -> AdapterClass:
    """Add a family to the registry; a class decorator.

    Raises:
        ConfigError: it is no such class, or another one serves one of its model types.
    """
    kinds: Any = getattr(cls, "model_types", None)
    if (
        not (isinstance(cls, type) and issubclass(cls, Adapter))
        or not isinstance(getattr(cls, "family", None), str)
        or not isinstance(kinds, tuple)
        or not kinds
        or not all(isinstance(kind, str) for kind in kinds)
    ):
        raise ConfigError(
            f"family: got {cls!r} with model_types {kinds!r}, expected a subclass of "
            "sttm.models.Adapter with a family name and a tuple of model types. See "
            "docs/adding-a-model.md."
        )
    for kind in kinds:
        known = _BY_TYPE.get(kind, cls)
        if known is not cls:
            raise ConfigError(
                f"family {cls.family!r}: got {cls.__qualname__} for model type {kind!r}, but "
                f"{known.__qualname__} serves it. Choose other model_types."
            )
    if cls not in _ADAPTERS:
        _ADAPTERS.append(cls)
    _BY_TYPE.update(dict.fromkeys(kinds, cls))
    return cls


for _family in (
    families.LlavaOnevision,
    families.LlavaNextVideo,
    families.Qwen2VL,
    families.Qwen3VL,
    families.Qwen35,
    families.Glm4v,
    families.InternVL,
    families.SmolVLM,
    families.VideoLlama3,
):
    register_family(_family)


def list_models() -> list[type[Adapter]]:
    """List the supported families, those of plugins last.

    Raises:
        ConfigError: a plugin cannot be imported.
    """
    plugins.load(plugins.FAMILIES, register_family)
    return list(_ADAPTERS)


def adapter_for(model: Any) -> Adapter:
    """Find the adapter of a transformers model, or of one that PEFT or another module wraps.

    Raises:
        UnsupportedModelError: no family serves it, or the installed transformers cannot run it;
            names the families or the versions that can.
        ConfigError: a plugin cannot be imported.
    """
    plugins.load(plugins.FAMILIES, register_family)
    kind = getattr(getattr(pretrained(model), "config", None), "model_type", None)
    adapter = _BY_TYPE.get(kind) if isinstance(kind, str) else None
    if adapter is None:
        raise UnsupportedModelError(
            f"got {type(model).__name__} (model_type {kind!r}), expected one of: "
            f"{', '.join(sorted(_BY_TYPE))}. See docs/adding-a-model.md for a new family."
        )
    if not isinstance(model, torch.nn.Module):
        raise UnsupportedModelError(
            f"got {type(model).__name__} (model_type {kind!r}), which is not a torch module, "
            "expected a model of transformers: OpenVINO, ONNX Runtime and llama.cpp run graphs of "
            "their own, into which no hook reaches. Load it with AutoModelForImageTextToText; "
            "torchao's int8 weights make it smaller."
        )
    found = adapter(model)
    fault = found.library_fault()
    if fault:
        raise UnsupportedModelError(
            f"got {type(found.model).__name__} with transformers {version('transformers')}, which "
            f"cannot run it: {fault}. Expected one of those that can: "
            f"{', '.join(versions_for(str(kind)))}."
        )
    return found
