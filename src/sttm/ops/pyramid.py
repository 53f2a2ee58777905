"""The pyramid of cells over one frame: sizes, children, pooling. Level 0 is the finest here.

Halving an even side pairs (0, 1), (2, 3), ...; an odd side leaves the first row or column alone
and pairs the rest. So child ``c`` of a side of ``n`` belongs to parent ``(c + n % 2) // 2``, for
every side by itself.

Source: STTM, section 3.1. Differs: sides of mixed parity work.
"""

from dataclasses import dataclass

import torch


def level_sizes(height: int, width: int, *, to_single: bool = False) -> list[tuple[int, int]]:
    """List the ``(height, width)`` of every level, finest first.

    Args:
        height: rows of the finest level.
        width: columns of the finest level.
        to_single: go on to 1x1 instead of stopping where a side is 2 or 1.
    """
    sizes = [(height, width)]
    while max(sizes[-1]) > 1 if to_single else min(sizes[-1]) > 2:
        rows, columns = sizes[-1]
        sizes.append(((rows + 1) // 2, (columns + 1) // 2))
    return sizes


def used_sizes(height: int, width: int, root_level: int) -> list[tuple[int, int]]:
    """List the sizes from the finest level to the root, finest first.

    Args:
        height: rows of the finest level.
        width: columns of the finest level.
        root_level: counts from the coarsest level (0); -1, or more than there are, keeps the
            finest level only.
    """
    sizes = level_sizes(height, width)
    return sizes[:1] if root_level < 0 else sizes[: max(1, len(sizes) - root_level)]


def parent_index(size: int) -> torch.Tensor:
    """Return ``(size,)`` int64: the parent of every row (or column) of a side."""
    return (torch.arange(size) + size % 2) // 2


def add_pairs(x: torch.Tensor, dim: int) -> torch.Tensor:
    """Sum the children of every parent along one side: length ``n`` becomes ``(n + 1) // 2``."""
    size = x.shape[dim]
    odd = size % 2
    total = _every_second(x, dim, 1 - odd).clone()
    total.narrow(dim, odd, size // 2).add_(_every_second(x, dim, odd))
    return total


def _every_second(x: torch.Tensor, dim: int, start: int) -> torch.Tensor:
    return x[(slice(None),) * dim + (slice(start, None, 2),)]


def pool(x: torch.Tensor, patches: torch.Tensor | None = None) -> torch.Tensor:
    """Pool every cell's children into the cell, all frames at once.

    Args:
        x: ``(T, h, w, C)`` floating. Not modified.
        patches: ``(h, w)`` patches per child for a mean over patches; None for the plain mean
            over children.

    Returns:
        ``(T, (h + 1) // 2, (w + 1) // 2, C)`` in the dtype of ``x``.
    """
    amount = torch.ones(x.shape[1:3], device=x.device) if patches is None else patches.float()
    if patches is not None:
        x = x * amount[:, :, None]
    total = add_pairs(add_pairs(x, 1), 2)
    return total.mul_((1.0 / add_pairs(add_pairs(amount, 0), 1))[:, :, None])


@dataclass(frozen=True)
class CellTables:
    """For every level and every patch of a frame: facts about the cell that holds the patch.

    Args:
        cell: ``(L, H*W)`` int64, the cell's index in its level (raster).
        first: ``(L, H*W)`` int64, the cell's top-left patch (raster).
        box: ``(L, H*W, 4)`` int64, y0, x0, y1, x1, end-exclusive, in patches.
        share: ``(L, H*W)`` float32, the patch's weight in the cell's pooled feature.
        patches: per level ``(h, w)`` int64, patches per cell.
    """

    cell: torch.Tensor
    first: torch.Tensor
    box: torch.Tensor
    share: torch.Tensor
    patches: list[torch.Tensor]


@dataclass(frozen=True)
class _Side:
    """One side of the pyramid: per level and patch, the cell, its extent and its share."""

    cell: torch.Tensor
    start: torch.Tensor
    end: torch.Tensor
    share: torch.Tensor


def _side_tables(sizes: list[int], weighted: bool) -> list[_Side]:
    position = torch.arange(sizes[0])
    cell, share = position, torch.ones(sizes[0])
    sides = [_Side(cell, position, position + 1, share)]
    for size in sizes[:-1]:
        parent = parent_index(size)
        children = torch.bincount(parent)
        cell = parent[cell]
        share = share / children[cell]
        patches = torch.bincount(cell)
        end = patches.cumsum(0)
        weight = 1.0 / patches[cell] if weighted else share
        sides.append(_Side(cell, (end - patches)[cell], end[cell], weight))
    return sides


def cell_tables(
    sizes: list[tuple[int, int]], weighted: bool, device: torch.device | str = "cpu"
) -> CellTables:
    """Build the tables for a pyramid.

    Args:
        sizes: ``(height, width)`` per level, finest first.
        weighted: pooled features are means over patches instead of over children.
        device: where the tables go.
    """
    height, width = sizes[0]
    rows = _side_tables([size[0] for size in sizes], weighted)
    columns = _side_tables([size[1] for size in sizes], weighted)
    cell, first, box, share, patches = [], [], [], [], []
    for (_, level_width), y, x in zip(sizes, rows, columns, strict=True):
        cell.append(y.cell[:, None] * level_width + x.cell)
        first.append(y.start[:, None] * width + x.start)
        corners = (y.start[:, None], x.start[None], y.end[:, None], x.end[None])
        box.append(torch.stack([c.expand(height, width) for c in corners], dim=-1))
        share.append(y.share[:, None] * x.share)
        patches.append((torch.bincount(y.cell)[:, None] * torch.bincount(x.cell)).to(device))
    return CellTables(
        cell=torch.stack(cell).flatten(1).to(device),
        first=torch.stack(first).flatten(1).to(device),
        box=torch.stack(box).flatten(1, 2).to(device),
        share=torch.stack(share).flatten(1).to(device),
        patches=patches,
    )
