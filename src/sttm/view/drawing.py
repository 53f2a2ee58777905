"""Paint the cells of one time step onto one frame."""

import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from sttm.grid import VideoGrid
from sttm.view.cells import Cells

Picture = npt.NDArray[np.uint8]

PALE = 0.75  # share of paper in the cells of tokens that are counted in another frame
LIGHT, DARK = 255, 24  # greys on the two sides of a border
LINE = 0.6  # opacity of a border
BORDER = 240  # pixels of a picture's shorter side for one pixel on either side of a border
_GAP = 3.0  # what is left to the second step of `scale`, as Pillow advises
_CUT = "..."
DROPPED = 0.25  # brightness that dropped tokens keep

TOKEN_SIDE = 8  # pixels; narrower cells could not be told apart

PAPER, INK, FAINT = (250, 250, 248), (28, 28, 32), (110, 110, 118)


def paint(picture: Picture, cells: Cells, step: int) -> Picture:
    """Draw borders between tokens, fade cells of tokens of another frame, darken dropped ones.

    Args:
        picture: ``(H, W, 3)`` uint8 RGB; the grid is stretched over it. Not modified.
        cells: the plan on its grid.
        step: time step, in [0, T).
    """
    label = cells.label[step]
    token = label[_spread(picture.shape[0], label.shape[0])]
    token = token[:, _spread(picture.shape[1], label.shape[1])]
    painted = picture.astype(np.float32)
    painted[token < 0] *= DROPPED
    _draw_borders(painted, token)
    old = (token >= 0) & (cells.first[token] != step)
    painted[old] += PALE * np.subtract(PAPER, painted[old])
    return np.rint(painted).astype(np.uint8)


def scale(picture: Picture, width: int, height: int) -> Picture:
    """Resize a picture smoothly; a much larger one in two steps, the first of them a quick one."""
    smooth = Image.Resampling.LANCZOS
    resized = Image.fromarray(picture).resize((width, height), smooth, reducing_gap=_GAP)
    return np.asarray(resized)


def fitting_size(
    width: int, height: int, grid: VideoGrid, *, factor: float, most: int
) -> tuple[int, int]:
    """Choose a size for frames that stays within bounds whatever the frames are like.

    The shape of the frames is kept, unless they are so narrow that their tokens would vanish.

    Args:
        width: of the frames, pixels.
        height: of the frames, pixels.
        grid: the video's shape in tokens.
        factor: to scale by, if the bounds allow it.
        most: pixels of a side.

    Returns:
        width and height; at least 8 pixels per token where ``most`` allows it.
    """
    factor = min(factor, most / max(width, height))
    sides = ((width, grid.width), (height, grid.height))
    wide, high = (
        min(most, max(1, round(side * factor), TOKEN_SIDE * tokens)) for side, tokens in sides
    )
    return wide, high


def printable(text: str) -> str:
    """Replace what no font has: line breaks, control characters, bytes of names in no encoding."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def shorten(text: str, size: float, most: int) -> str:
    """Cut a line to a width, and show that it was cut.

    Args:
        text: the line.
        size: of the letters.
        most: pixels.
    """
    text = text[:most]  # no letter is narrower than a pixel
    if text_width(text, size) <= most:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        fits = text_width(text[:middle] + _CUT, size) <= most
        low, high = (middle, high) if fits else (low, middle - 1)
    return text[:low] + _CUT


def font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Pillow's own font: no font file of the system is needed."""
    return ImageFont.load_default(size)


def write(
    canvas: Image.Image, place: tuple[int, int], text: str, size: float, *, faint: bool = False
) -> None:
    """Write one line; ``place`` is the left end of its middle."""
    draw = ImageDraw.Draw(canvas)
    draw.text(place, printable(text), fill=FAINT if faint else INK, font=font(size), anchor="lm")


def text_width(text: str, size: float) -> int:
    """Pixels that one line takes."""
    return math.ceil(font(size).getlength(printable(text)))


def caption(cells: Cells, step: int, seconds: float) -> str:
    """Say what a time step costs, e.g. ``t=3.0s  12 new tokens``."""
    count = int(cells.new_tokens[step])
    return f"t={seconds:.1f}s  {count} new token{'' if count == 1 else 's'}"


def summary(cells: Cells) -> str:
    """Say what the whole video costs, e.g. ``2048 -> 512 tokens (25.0 %)``."""
    share = 100 * cells.num_out / cells.num_in
    return f"{cells.num_in} -> {cells.num_out} tokens ({share:.1f} %)"


def _spread(pixels: int, tokens: int) -> npt.NDArray[np.int64]:
    """``(pixels,)``: the token row (or column) of every pixel row (or column)."""
    return np.arange(pixels) * tokens // pixels


def _draw_borders(picture: npt.NDArray[np.float32], token: npt.NDArray[np.int64]) -> None:
    """Put a light and a dark line on the two sides of every border: legible on any picture."""
    thick = max(1, round(min(token.shape) / BORDER))
    light, dark = np.zeros((2, *token.shape), dtype=np.bool_)
    rows, columns = token[1:] != token[:-1], token[:, 1:] != token[:, :-1]
    for step in range(thick):
        light[1 + step :] |= rows[: len(rows) - step]
        light[:, 1 + step :] |= columns[:, : columns.shape[1] - step]
        dark[: len(rows) - step] |= rows[step:]
        dark[:, : columns.shape[1] - step] |= columns[:, step:]
    for line, grey in ((dark & ~light, DARK), (light, LIGHT)):
        picture[line] = LINE * grey + (1 - LINE) * picture[line]
