"""Make video LLMs several times faster without training, by merging redundant video tokens."""

from typing import TYPE_CHECKING, Any

from sttm.errors import (
    BudgetError,
    ConfigError,
    IncompatibleTransformersError,
    MissingExtraError,
    SavedCacheError,
    SttmError,
    UnknownNameError,
    UnreducedVideoError,
    UnsupportedModelError,
    UntestedVersionWarning,
    VideoError,
)
from sttm.extras import NEEDS, install_guard, require

if TYPE_CHECKING:
    from sttm.attachment import Attachment, VideoReport, attach
    from sttm.chat import VideoChat
    from sttm.grid import VideoGrid
    from sttm.methods import STTM, Method, VideoFeatures, get_method, list_methods
    from sttm.models.encoding import FrameEncoding
    from sttm.plan import MergePlan
    from sttm.streaming import StreamingSTTM

__version__ = "0.1.0"

__all__ = [
    "STTM",
    "Attachment",
    "BudgetError",
    "ConfigError",
    "FrameEncoding",
    "IncompatibleTransformersError",
    "MergePlan",
    "Method",
    "MissingExtraError",
    "SavedCacheError",
    "StreamingSTTM",
    "SttmError",
    "UnknownNameError",
    "UnreducedVideoError",
    "UnsupportedModelError",
    "UntestedVersionWarning",
    "VideoChat",
    "VideoError",
    "VideoFeatures",
    "VideoGrid",
    "VideoReport",
    "attach",
    "get_method",
    "list_methods",
]

install_guard()

# Imported on first use: ``import sttm`` and the command line's help load neither torch nor
# transformers.
_LAZY = {
    "STTM": "sttm.methods",
    "StreamingSTTM": "sttm.streaming",
    "Attachment": "sttm.attachment",
    "FrameEncoding": "sttm.models.encoding",
    "MergePlan": "sttm.plan",
    "Method": "sttm.methods",
    "VideoChat": "sttm.chat",
    "VideoFeatures": "sttm.methods",
    "VideoGrid": "sttm.grid",
    "VideoReport": "sttm.attachment",
    "attach": "sttm.attachment",
    "get_method": "sttm.methods",
    "list_methods": "sttm.methods",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        require(NEEDS.get(_LAZY[name], ()), f"sttm.{name}")
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
