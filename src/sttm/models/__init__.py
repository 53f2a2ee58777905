"""What sttm knows of transformers' video models."""

from sttm.deprecated import old_names
from sttm.models.adapter import Adapter, Positions, VideoLayout, VideoSpan
from sttm.models.registry import adapter_for, list_models, register_family

__all__ = [
    "Adapter",
    "Positions",
    "VideoLayout",
    "VideoSpan",
    "adapter_for",
    "list_models",
    "register_family",
]

__getattr__ = old_names(__name__, {"EncodedVideo": VideoLayout})
