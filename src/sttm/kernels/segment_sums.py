"""Weighted sums of rows, segment by segment: how a plan is applied."""

import torch
import triton
import triton.language as tl

# Channels that one program adds, and rows that it reads ahead.
_BLOCK = 512
_AHEAD = 4


@triton.jit
def _segment_sums(
    rows_ptr, token_ptr, offset_ptr, share_ptr, out_ptr, width, stride,
    DTYPE: tl.constexpr, AHEAD: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    segment = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    start = tl.load(offset_ptr + segment)
    end = tl.load(offset_ptr + segment + 1)
    total = tl.zeros((BLOCK,), DTYPE)
    for first in range(start, end, AHEAD):
        left = end - first
        for step in tl.static_range(AHEAD):
            place = first + tl.minimum(left - 1, step)
            row_ptr = rows_ptr + tl.load(token_ptr + place) * stride
            there = column < tl.where(step < left, width, 0)
            row = tl.load(row_ptr + column, there, 0.0).to(DTYPE)
            total += row * tl.load(share_ptr + place).to(DTYPE)
    tl.store(out_ptr + segment * width + column, total.to(out_ptr.dtype.element_ty), column < width)


def segment_sums(
    rows: torch.Tensor, token: torch.Tensor, offset: torch.Tensor, share: torch.Tensor
) -> torch.Tensor:
    """Sum the rows of every segment, times their shares, in their order.

    Half precision is read as it is and summed in float32, float64 in float64.

    Args:
        rows: ``(N, C)`` floating.
        token: ``(E,)`` int64, the rows, segment by segment.
        offset: ``(M + 1,)`` int64, where every segment starts in ``token``; where the last ends.
        share: ``(E,)`` float32.

    Returns:
        ``(M, C)`` in the dtype of ``rows``.
    """
    segments, width = offset.shape[0] - 1, rows.shape[1]
    out = rows.new_empty(segments, width)
    if out.numel() == 0:
        return out
    rows = rows if rows.stride(1) == 1 else rows.contiguous()
    block = min(_BLOCK, triton.next_power_of_2(width))
    with torch.cuda.device_of(rows):
        _segment_sums[(segments, triton.cdiv(width, block))](
            rows, token.contiguous(), offset.contiguous(), share.contiguous(), out,
            width, rows.stride(0),
            DTYPE=tl.float64 if rows.dtype == torch.float64 else tl.float32,
            AHEAD=_AHEAD, BLOCK=block, enable_fp_fusion=False,
        )  # fmt: skip
    return out
