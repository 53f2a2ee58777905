"""Turn frames upright: phones store the sensor's picture and a matrix that says how to show it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
from av.buffer import Buffer
from av.video.frame import VideoFrame

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Orientation:
    """One of the eight ways to lay a picture down: swap its axes, then flip either one.

    Args:
        transpose: rows become columns.
        flip_rows: top and bottom change places, after ``transpose``.
        flip_columns: left and right change places, after ``transpose``.
        exact: False when the file asked for an angle that is no multiple of 90 degrees, which
            is not applied.
    """

    transpose: bool = False
    flip_rows: bool = False
    flip_columns: bool = False
    exact: bool = True

    def apply(self, image: Image) -> Image:
        """Lay ``image`` ``(H, W, 3)`` down upright; returns a view of it."""
        if self.transpose:
            image = image.transpose(1, 0, 2)
        rows = slice(None, None, -1 if self.flip_rows else 1)
        columns = slice(None, None, -1 if self.flip_columns else 1)
        return image[rows, columns]


def frame_orientation(frame: VideoFrame) -> Orientation:
    """Read how a decoded frame has to be shown; without a display matrix, as it is."""
    try:
        side_data = cast(Mapping[str, Buffer], frame.side_data)  # PyAV types only some of its keys
        matrix = side_data["DISPLAYMATRIX"]
    except KeyError:
        return Orientation()
    except ValueError:  # side data that PyAV has no name for, such as EXIF, hides all of it
        return _turned(frame.rotation)
    return orientation_of(np.frombuffer(bytes(matrix), dtype=np.int32))


def _turned(degrees: int) -> Orientation:
    """Return the orientation that turns a picture counterclockwise."""
    turns = {
        0: Orientation(),
        90: Orientation(transpose=True, flip_rows=True),
        180: Orientation(flip_rows=True, flip_columns=True),
        270: Orientation(transpose=True, flip_columns=True),
    }
    return turns.get(degrees % 360, Orientation(exact=False))


def orientation_of(matrix: npt.NDArray[np.int32]) -> Orientation:
    """Read an ISO base media display matrix.

    Args:
        matrix: nine numbers ``a b u c d v x y w`` in native byte order; a point of the picture
            goes to ``(a*px + c*py, b*px + d*py)``, x to the right and y down. Scale and shift
            are ignored.

    Returns:
        the orientation; upright and not ``exact`` for an angle between the right ones.

    Source: ISO/IEC 14496-12, 6.2.2; ``libavutil/display.h``.
    """
    a, b, _, c, d, *_ = (int(number) for number in matrix)
    if b == c == 0 and a and d:
        return Orientation(flip_rows=d < 0, flip_columns=a < 0)
    if a == d == 0 and b and c:
        return Orientation(transpose=True, flip_rows=b < 0, flip_columns=c < 0)
    return Orientation(exact=False)
