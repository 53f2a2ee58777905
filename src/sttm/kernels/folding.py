"""Inner products in the order of `sttm.ops.similarity.products`, for the kernels.

A row of one head is read as ``FOLD`` parts side by side, in blocks: ``(FOLD * BLOCK,)`` channels,
part by part. Three times, where the length is even, the second half is added to the first in
float32. What is left is added in float64.
"""

import triton
import triton.language as tl

# Channels of each part that a program holds at once.
_BLOCK = 128


def folding(channels: int, heads: int) -> dict[str, int]:
    """Return how the rows of a head are cut: ``FOLD`` parts of ``SPAN`` channels, in ``BLOCK``."""
    width = channels // heads
    fold = next(parts for parts in (8, 4, 2, 1) if width % parts == 0)
    span = width // fold
    return {"FOLD": fold, "SPAN": span, "BLOCK": min(_BLOCK, triton.next_power_of_2(span))}


@triton.jit
def part_channels(start, SPAN: tl.constexpr, FOLD: tl.constexpr, BLOCK: tl.constexpr):
    """Return ``(FOLD * BLOCK,)`` channels of a head and whether they exist, from ``start`` on."""
    column = tl.arange(0, FOLD * BLOCK)
    within = start + column % BLOCK
    return (column // BLOCK) * SPAN + within, within < SPAN


@triton.jit
def add_halves(x, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Add the second half of every row to the first: ``(ROWS, WIDTH)`` to half as many columns."""
    low, high = tl.split(tl.permute(tl.reshape(x, (ROWS, 2, WIDTH // 2)), (0, 2, 1)))
    return low + high


@triton.jit
def folded(product, ROWS: tl.constexpr, FOLD: tl.constexpr, BLOCK: tl.constexpr):
    """Add the parts: ``(ROWS, FOLD * BLOCK)`` float32 to ``(ROWS, BLOCK)`` float64."""
    if FOLD >= 8:
        product = add_halves(product, ROWS, 8 * BLOCK)
    if FOLD >= 4:
        product = add_halves(product, ROWS, 4 * BLOCK)
    if FOLD >= 2:
        product = add_halves(product, ROWS, 2 * BLOCK)
    return product.to(tl.float64)


@triton.jit
def cosine(dot, square, other_square):
    """Return cosines in float64; those of a zero vector are 0. Twin of `similarity.cosines`."""
    scale = tl.sqrt(square * other_square)
    found = tl.where(scale > 0, dot / tl.where(scale > 0, scale, 1.0), 0.0)
    return tl.minimum(tl.maximum(found, -1.0), 1.0)
