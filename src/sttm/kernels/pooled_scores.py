"""One level of the pyramid: cells pooled, squared and scored, with one read of their children."""

import torch
import triton
import triton.language as tl

from sttm.kernels.folding import add_halves, cosine, folded, folding, part_channels


@triton.jit
def _pooled_scores(
    child_ptr, child_stride, child_square_ptr, square_stride, patches_ptr, scale_ptr,
    parent_ptr, parent_stride, parent_square_ptr, parent_square_stride, score_ptr, score_stride,
    height, width, CHANNELS: tl.constexpr, HEADS: tl.constexpr,
    WEIGHTED: tl.constexpr, PUBLISHED: tl.constexpr,
    FOLD: tl.constexpr, SPAN: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    rows, columns = (height + 1) // 2, (width + 1) // 2
    frame = (tl.program_id(0) // (rows * columns)).to(tl.int64)
    cell = tl.program_id(0) % (rows * columns)
    # The four child slots, in raster order. An odd side lacks its first one: the corner is read.
    slot = tl.arange(0, 4)
    y = cell // columns * 2 - height % 2 + slot // 2
    x = cell % columns * 2 - width % 2 + slot % 2
    there = (y >= 0) & (x >= 0)
    child = tl.where(there, y * width + x, 0)
    scale = tl.load(scale_ptr + cell)
    total = tl.zeros((4,), tl.float64)
    for head in range(HEADS):
        dot = tl.zeros((4, BLOCK), tl.float64)
        square = tl.zeros((4, BLOCK), tl.float64)
        parent_square = tl.zeros((1, BLOCK), tl.float64)
        for start in range(0, SPAN, BLOCK):
            channel, exists = part_channels(start, SPAN, FOLD, BLOCK)
            channel += head * (FOLD * SPAN)
            place = frame * child_stride + child[:, None] * CHANNELS + channel[None, :]
            feature = tl.load(child_ptr + place, exists[None, :], 0.0).to(tl.float32)
            pooled = tl.where(there[:, None], feature, 0.0)
            if WEIGHTED:
                pooled *= tl.load(patches_ptr + child)[:, None]
            # First the rows of children are added, then the columns.
            pooled = tl.reshape(pooled, (1, 4 * FOLD * BLOCK))
            pooled = add_halves(add_halves(pooled, 1, 4 * FOLD * BLOCK), 1, 2 * FOLD * BLOCK)
            parent = (pooled * scale).to(parent_ptr.dtype.element_ty)
            place = frame * parent_stride + cell * CHANNELS + channel
            tl.store(parent_ptr + place[None, :], parent, exists[None, :])
            parent = parent.to(tl.float32)
            dot += folded(feature * parent, 4, FOLD, BLOCK)
            square += folded(feature * feature, 4, FOLD, BLOCK)
            parent_square += folded(parent * parent, 1, FOLD, BLOCK)
        squares, parent_squares = tl.sum(square, 1), tl.sum(parent_square, 1)
        place = frame * square_stride + child * HEADS + head
        tl.store(child_square_ptr + place, squares, there)
        place = frame * parent_square_stride + cell * HEADS + head + tl.arange(0, 1)
        tl.store(parent_square_ptr + place, parent_squares)
        total += cosine(tl.sum(dot, 1), squares, parent_squares)
    mean = total / HEADS
    if not PUBLISHED:  # the published code compares the corner where a child lacks
        mean = tl.where(there, mean, 1.0)
    tl.store(score_ptr + frame * score_stride + cell, tl.min(mean, 0).to(tl.float32))


def pooled_scores(
    child: torch.Tensor,
    child_square: torch.Tensor,
    size: tuple[int, int],
    scale: torch.Tensor,
    patches: torch.Tensor | None,
    parent: torch.Tensor,
    parent_square: torch.Tensor,
    score: torch.Tensor,
    published: bool,
) -> None:
    """Fill in the next coarser level of every frame: features, squared norms, scores.

    The squared norms of the children are filled in, too.

    Args:
        child: ``(T, h*w, C)`` floating.
        child_square: ``(T, h*w, heads)`` float64; written.
        size: ``(h, w)``.
        scale: ``((h + 1) // 2, (w + 1) // 2)`` float32: 1 / children (or patches) of every cell.
        patches: ``(h*w,)`` float32 patches per child for means over patches; None for plain ones.
        parent: ``(T, k, C)`` of the cells; written in its dtype.
        parent_square: ``(T, k, heads)`` float64; written.
        score: ``(T, k)`` float32; written.
        published: compare the frame's first child where an odd side lacks one.
    """
    frames, _, channels = child.shape
    heads = child_square.shape[2]
    with torch.cuda.device_of(child):
        _pooled_scores[(frames * parent.shape[1],)](
            child, child.stride(0), child_square, child_square.stride(0),
            scale if patches is None else patches, scale,
            parent, parent.stride(0), parent_square, parent_square.stride(0),
            score, score.stride(0), *size,
            CHANNELS=channels, HEADS=heads, WEIGHTED=patches is not None, PUBLISHED=published,
            **folding(channels, heads), enable_fp_fusion=False,
        )  # fmt: skip
