"""What sttm knows of transformers' video models."""

from sttm.models.adapter import Adapter, EncodedVideo, Positions, VideoSpan
from sttm.models.registry import adapter_for, list_models, register_family

__all__ = [
    "Adapter",
    "EncodedVideo",
    "Positions",
    "VideoSpan",
    "adapter_for",
    "list_models",
    "register_family",
]
