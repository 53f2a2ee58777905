"""Which adapter serves which model."""

from importlib.metadata import version
from typing import Any

from sttm.errors import UnsupportedModelError
from sttm.models import families
from sttm.models.adapter import Adapter
from sttm.models.transformers_api import pretrained
from sttm.models.versions import versions_for

_ADAPTERS: tuple[type[Adapter], ...] = (
    families.LlavaOnevision,
    families.LlavaNextVideo,
    families.Qwen2VL,
    families.Qwen3VL,
    families.Qwen35,
    families.Glm4v,
    families.InternVL,
    families.SmolVLM,
    families.VideoLlama3,
)
_BY_TYPE = {name: adapter for adapter in _ADAPTERS for name in adapter.model_types}


def list_models() -> list[type[Adapter]]:
    """List the supported families."""
    return list(_ADAPTERS)


def adapter_for(model: Any) -> Adapter:
    """Find the adapter of a transformers model, or of one that PEFT or another module wraps.

    Raises: UnsupportedModelError: no family serves it, or the installed transformers cannot run
        it; names the families or the versions that can.
    """
    kind = getattr(getattr(pretrained(model), "config", None), "model_type", None)
    adapter = _BY_TYPE.get(kind) if isinstance(kind, str) else None
    if adapter is None:
        raise UnsupportedModelError(
            f"got {type(model).__name__} (model_type {kind!r}), expected one of: "
            f"{', '.join(sorted(_BY_TYPE))}. See docs/adding-a-model.md for a new family."
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
