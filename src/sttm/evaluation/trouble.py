"""What goes wrong with one video among many: an error that names it, and nothing else's."""

from collections.abc import Iterator
from contextlib import contextmanager

from sttm.errors import FailedVideoError, SttmError


@contextmanager
def naming(video: str) -> Iterator[None]:
    """Turn what another library raises at a video into an error of sttm that names the video.

    Errors of sttm go through as they are, and so do those that are not about the video: an
    interrupt, and a machine without memory.

    Args:
        video: its name.

    Raises:
        FailedVideoError: anything else was raised; that is its cause.
    """
    try:
        yield
    except (SttmError, MemoryError):
        raise
    except Exception as error:  # processors and models raise whatever they like
        raise FailedVideoError(f"{video}: {described(error)}") from error


def told(video: str, error: Exception) -> str:
    """Say in one line what went wrong with a video, with its name.

    Args:
        video: its name.
        error: an error of sttm says what it is; of others the type is told, too.
    """
    text = described(error)
    return text if video in text else f"{video}: {text}"


def described(error: Exception) -> str:
    """Write an error on one line, with its type unless it is of sttm."""
    text = " ".join(str(error).split())
    if isinstance(error, SttmError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
