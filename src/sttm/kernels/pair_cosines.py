"""The cosines of pairs of cells, without gathering their features first."""

import torch
import triton
import triton.language as tl

from sttm.kernels.folding import cosine, folded, folding, part_channels

# Pairs that one program compares.
_PAIRS = 4


@triton.jit
def _row(
    fine_ptr, coarse_ptr, row, wanted, channel, exists, tokens, CHANNELS: tl.constexpr
):  # fmt: skip
    """Read some channels of rows of either table, in float32; what is masked reads nothing."""
    coarse = row >= tokens
    place = tl.where(coarse, row - tokens, row)[:, None] * CHANNELS + channel[None, :]
    there = wanted[:, None] & exists[None, :]
    fine = tl.load(fine_ptr + place, there & ~coarse[:, None], 0.0).to(tl.float32)
    return fine + tl.load(coarse_ptr + place, there & coarse[:, None], 0.0).to(tl.float32)


@triton.jit
def _pair_cosines(
    fine_ptr, coarse_ptr, square_ptr, one_ptr, other_ptr, wanted_ptr, out_ptr, pairs, tokens,
    CHANNELS: tl.constexpr, HEADS: tl.constexpr, PAIRS: tl.constexpr,
    FOLD: tl.constexpr, SPAN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(0) * PAIRS + tl.arange(0, PAIRS)
    inside = pair < pairs
    wanted = tl.load(wanted_ptr + pair, inside, 0) != 0
    one = tl.load(one_ptr + pair, inside, 0)
    other = tl.load(other_ptr + pair, inside, 0)
    total = tl.zeros((PAIRS,), tl.float64)
    for head in range(HEADS):
        dot = tl.zeros((PAIRS, BLOCK), tl.float64)
        for start in range(0, SPAN, BLOCK):
            channel, exists = part_channels(start, SPAN, FOLD, BLOCK)
            channel += head * (FOLD * SPAN)
            a = _row(fine_ptr, coarse_ptr, one, wanted, channel, exists, tokens, CHANNELS)
            b = _row(fine_ptr, coarse_ptr, other, wanted, channel, exists, tokens, CHANNELS)
            dot += folded(a * b, PAIRS, FOLD, BLOCK)
        square = tl.load(square_ptr + one * HEADS + head, wanted, 0.0)
        other_square = tl.load(square_ptr + other * HEADS + head, wanted, 0.0)
        total += cosine(tl.sum(dot, 1), square, other_square)
    mean = tl.where(wanted, (total / HEADS).to(tl.float32), float("-inf"))
    tl.store(out_ptr + pair, mean, inside)


def pair_cosines(
    fine: torch.Tensor,
    coarse: torch.Tensor,
    squares: torch.Tensor,
    one: torch.Tensor,
    other: torch.Tensor,
    wanted: torch.Tensor,
) -> torch.Tensor:
    """Compare pairs of rows of two tables that are laid end to end; rows are read where they lie.

    Args:
        fine: ``(N, C)`` floating.
        coarse: ``(K, C)`` floating.
        squares: ``(N + K, heads)`` float64, the squared norms of all rows.
        one: ``(E,)`` int64 rows.
        other: ``(E,)`` int64 rows.
        wanted: ``(E,)`` bool: the pairs to compare. No feature of the others is read.

    Returns:
        ``(E,)`` float32, the cosines; -inf where none is wanted.
    """
    heads, channels, pairs = squares.shape[1], fine.shape[1], one.shape[0]
    out = torch.empty(pairs, dtype=torch.float32, device=fine.device)
    if pairs == 0:
        return out
    with torch.cuda.device_of(fine):
        _pair_cosines[(triton.cdiv(pairs, _PAIRS),)](
            fine.contiguous(), coarse.contiguous(), squares.contiguous(),
            one.contiguous(), other.contiguous(), wanted.contiguous(), out, pairs, fine.shape[0],
            CHANNELS=channels, HEADS=heads, PAIRS=_PAIRS, **folding(channels, heads),
            enable_fp_fusion=False,
        )  # fmt: skip
    return out
