"""The errors that sttm raises on purpose: one tree, so that ``except SttmError`` catches them all.

Every message says what was got, what was expected and what to do about it.
"""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = [
    "BudgetError",
    "ConfigError",
    "ContextWarning",
    "FailedVideoError",
    "IncompatibleTransformersError",
    "MissingExtraError",
    "SavedCacheError",
    "StoreWarning",
    "SttmError",
    "UnknownNameError",
    "UnreducedVideoError",
    "UnsupportedModelError",
    "UntestedVersionWarning",
    "VideoError",
    "WriteError",
]


def printable(text: str) -> str:
    """Escape what no encoding can print, such as bytes of a file name that are not UTF-8."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


class SttmError(Exception):
    """Base of every error that sttm raises on purpose; its message can always be printed."""

    def __init__(self, *parts: object) -> None:
        super().__init__(*(printable(part) if isinstance(part, str) else part for part in parts))


class ConfigError(SttmError, ValueError):
    """An argument is out of range, of the wrong shape or dtype, or contradicts another one."""


class BudgetError(ConfigError):
    """A token budget cannot be met."""


class UnknownNameError(ConfigError):
    """A method, model or other registered name does not exist."""


class UnsupportedModelError(SttmError):
    """The model, its cache or its inputs are of a kind that merging cannot be exact for."""


class IncompatibleTransformersError(UnsupportedModelError):
    """The installed transformers, or a wrapper of the model, does not do what the hooks rely on."""


class MissingExtraError(SttmError, ImportError):
    """A part of sttm needs packages that are not installed; the message names their extra."""


class UntestedVersionWarning(UserWarning):
    """The installed transformers is newer than every release that sttm was tested with."""


class ContextWarning(UserWarning):
    """A prompt, or a question with its answer, goes beyond the model's context."""


class UnreducedVideoError(SttmError):
    """A video passed through the model without being reduced."""


class VideoError(SttmError):
    """A video or subtitle file cannot be read."""


class FailedVideoError(SttmError):
    """Another library failed at a video; the message names the video, the cause is the failure."""


class SavedCacheError(SttmError):
    """A saved video cache is damaged, of another version, or belongs to another model."""


class StoreWarning(UserWarning):
    """A store of watched videos lost or could not keep one; it will be watched again."""


class WriteError(SttmError):
    """A file cannot be written: the disk is full, or the place does not take it."""


def first_line(error: Exception) -> str:
    """Return the first line of an error's text; libraries may add pages to it."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UnknownNameError:
    """Build the error for a name that is not in a registry, with the nearest known one.

    Args:
        kind: what the name should have been, e.g. ``"method"``.
        name: what was asked for.
        known: every accepted name.
    """
    names = sorted(known)
    close = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return UnknownNameError(f"unknown {kind} {name!r}.{hint} Known: {', '.join(names)}.")
