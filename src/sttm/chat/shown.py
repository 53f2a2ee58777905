"""What is shown to a model: one video, or several with what was said between them."""

from os import PathLike
from typing import Any

import numpy as np

from sttm.errors import ConfigError
from sttm.video import Sampling, Video
from sttm.video.decode import video_of_frames

Frames = np.ndarray[Any, Any]
Shown = str | PathLike[str] | Video | Frames


def shown_in_order(shown: Any) -> list[Any]:
    """Return videos and turns as a list: what is no list is one video.

    Args:
        shown: see :meth:`VideoChat.watch`.

    Raises:
        ConfigError: the last one is no video, or a turn is no pair of texts.
    """
    if not isinstance(shown, list | tuple):
        return [shown]
    steps = list(shown)
    for step in steps:
        if isinstance(step, np.ndarray) and step.ndim < 4:
            raise ConfigError(
                f"video: got a list with an array of shape {step.shape}, expected videos. Stack a "
                "list of frames with numpy.stack()."
            )
        pair = isinstance(step, tuple) and len(step) == 2 and all(isinstance(s, str) for s in step)
        if isinstance(step, list | tuple) and not pair:
            raise ConfigError(
                f"video: got a {type(step).__name__} of {len(step)} in a list, expected videos, "
                "and (question, answer) pairs of text between them."
            )
    if steps and isinstance(steps[-1], tuple):
        raise ConfigError(
            "video: got a list that ends with a question and its answer, expected a video at its "
            "end. Begin a conversation() about the videos, and ask on."
        )
    return steps


def as_video(video: Any, **sampling: Any) -> Video | str | PathLike[str]:
    """Return frames as a `Video`, and the path of a file as it is.

    Args:
        video: see :meth:`VideoChat.watch`.
        sampling: the numbers of :class:`sttm.video.Sampling`.

    Raises:
        ConfigError: it is neither, or a number is out of range.
    """
    if isinstance(video, np.ndarray):
        return video_of_frames(video, Sampling(**sampling))
    if not isinstance(video, str | PathLike | Video):
        raise ConfigError(
            f"video: got {type(video).__name__}, expected a path, a Video that read_video() "
            "gave, or frames as an array (T, H, W, 3) of uint8. Stack a list of frames with "
            "numpy.stack()."
        )
    return video
