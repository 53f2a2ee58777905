"""Reduction methods: one frozen dataclass per file, and the registry of their names."""

from sttm.methods.base import Method
from sttm.methods.identity import Identity
from sttm.methods.random import RandomTokens
from sttm.methods.registry import MethodInfo, get_method, list_methods, register
from sttm.methods.sttm import STTM

__all__ = [
    "STTM",
    "Identity",
    "Method",
    "MethodInfo",
    "RandomTokens",
    "get_method",
    "list_methods",
    "register",
]
