"""Make video LLMs several times faster without training, by merging redundant video tokens."""

from typing import TYPE_CHECKING, Any

from sttm.errors import (
    BudgetError,
    ConfigError,
    IncompatibleTransformersError,
    SavedCacheError,
    SttmError,
    UnknownNameError,
    UnreducedVideoError,
    UnsupportedModelError,
    UntestedVersionWarning,
    VideoError,
)
from sttm.grid import VideoGrid
from sttm.methods import STTM, Method, get_method, list_methods
from sttm.plan import MergePlan

if TYPE_CHECKING:
    from sttm.attachment import Attachment, VideoReport, attach
    from sttm.chat import VideoChat

__version__ = "0.1.0"

__all__ = [
    "STTM",
    "Attachment",
    "BudgetError",
    "ConfigError",
    "IncompatibleTransformersError",
    "MergePlan",
    "Method",
    "SavedCacheError",
    "SttmError",
    "UnknownNameError",
    "UnreducedVideoError",
    "UnsupportedModelError",
    "UntestedVersionWarning",
    "VideoChat",
    "VideoError",
    "VideoGrid",
    "VideoReport",
    "attach",
    "get_method",
    "list_methods",
]

# What needs transformers is imported on first use: ``import sttm`` stays quick and light.
_LAZY = {
    "Attachment": "sttm.attachment",
    "VideoChat": "sttm.chat",
    "VideoReport": "sttm.attachment",
    "attach": "sttm.attachment",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
