"""Checkpoints in LLaVA-NeXT's own layout, for transformers: converted, or loaded as they are."""

from sttm.checkpoints.conversion import Conversion, Needs, plan_conversion
from sttm.checkpoints.loading import load
from sttm.checkpoints.placement import Placement
from sttm.checkpoints.writing import convert

__all__ = ["Conversion", "Needs", "Placement", "convert", "load", "plan_conversion"]
