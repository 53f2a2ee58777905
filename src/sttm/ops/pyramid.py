"""The pyramid of cells over one frame: sizes, children, pooling. Level 0 is the finest here.

Halving an even side pairs (0, 1), (2, 3), ...; an odd side leaves the first row or column alone
and pairs the rest. So child ``c`` of a side of ``n`` belongs to parent ``(c + n % 2) // 2``, for
every side by itself.

Source: STTM, section 3.1. Differs: sides of mixed parity work.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch

Size = tuple[int, int]


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
    return (torch.arange(size, device="cpu") + size % 2) // 2


def add_pairs(x: torch.Tensor, dim: int) -> torch.Tensor:
    """Sum the children of every parent along one side: length ``n`` becomes ``(n + 1) // 2``."""
    size = x.shape[dim]
    odd = size % 2
    total = _every_second(x, dim, 1 - odd).clone()
    total.narrow(dim, odd, size // 2).add_(_every_second(x, dim, odd))
    return total


def _every_second(x: torch.Tensor, dim: int, start: int) -> torch.Tensor:
    return x[(slice(None),) * dim + (slice(start, None, 2),)]


def pool(x: torch.Tensor, scale: torch.Tensor, patches: torch.Tensor | None = None) -> torch.Tensor:
    """Pool every cell's children into the cell, all frames at once.

    Args:
        x: ``(T, h, w, C)`` floating. Not modified.
        scale: ``((h + 1) // 2, (w + 1) // 2)`` float32: 1 / children (or patches) of every cell.
        patches: ``(h, w)`` patches per child for a mean over patches; None for the plain mean
            over children.

    Returns:
        ``(T, (h + 1) // 2, (w + 1) // 2, C)`` in the dtype of ``x``.
    """
    if patches is not None:
        x = x * patches[:, :, None]
    return add_pairs(add_pairs(x, 1), 2).mul_(scale[:, :, None])


def child_slots(x: torch.Tensor) -> torch.Tensor:
    """Give every cell the four slots of its children; those that an odd side lacks hold zeros.

    Args:
        x: ``(T, h, w, C)``. Copied only where a side is odd.

    Returns:
        ``(T, (h + 1) // 2, 2, (w + 1) // 2, 2, C)``.
    """
    frames, height, width, channels = x.shape
    rows, columns = height % 2, width % 2
    if rows or columns:
        filled = x.new_empty(frames, height + rows, width + columns, channels)
        filled[:, :rows], filled[:, rows:, :columns] = 0, 0
        filled[:, rows:, columns:] = x
        x = filled
    return x.reshape(frames, (height + 1) // 2, 2, (width + 1) // 2, 2, channels)


@dataclass(frozen=True)
class CellTables:
    """Facts about the cells of one frame, the same for all frames of a grid.

    A cell's *place* is its number among all cells of the frame: level by level, finest first,
    raster inside a level. So the places of the finest level are the patches.

    Args:
        place: ``(L, H*W)`` int64, for every level and patch the place of the cell that holds it.
        first: ``(P,)`` int64, every cell's top-left patch (raster).
        box: ``(P, 4)`` int64, its y0, x0, y1, x1, end-exclusive, in patches.
        level: ``(P,)`` int64, its level.
        patches: ``(P,)`` float32, its patches.
        share: ``(L, H*W)`` float32, the patch's weight in the pooled feature of the cell.
        around: ``(L, P)`` int64, the places of the coarser cells around every cell; ``P`` where
            there is none.
        lacking: per level but the finest ``(h, 2, w, 2)`` bool: child slots that are empty; None
            if there is none.
        scale: per level but the finest ``(h, w)`` float32: see `pool`.
    """

    place: torch.Tensor
    first: torch.Tensor
    box: torch.Tensor
    level: torch.Tensor
    patches: torch.Tensor
    share: torch.Tensor
    around: torch.Tensor
    lacking: list[torch.Tensor | None]
    scale: list[torch.Tensor]


@dataclass(frozen=True)
class NeighbourTables:
    """The pairs of cells of one frame and the next that overlap, the same for all frames.

    Args:
        earlier: ``(E,)`` int64, the place of the cell in the earlier frame.
        later: ``(E,)`` int64, the place of the cell in the later frame.
    """

    earlier: torch.Tensor
    later: torch.Tensor


@lru_cache(maxsize=64)
def cell_tables(sizes: tuple[Size, ...], weighted: bool, device: torch.device) -> CellTables:
    """Build the tables of a pyramid, or return those that were built before.

    Args:
        sizes: ``(height, width)`` per level, finest first.
        weighted: pooled features are means over patches instead of over children.
        device: where the tables go.
    """
    sides = [_side_tables([size[side] for size in sizes], weighted) for side in (0, 1)]
    place, box, level, patches, share, lacking, scale = ([] for _ in range(7))
    start = 0
    for number, (size, y, x) in enumerate(zip(sizes, *sides, strict=True)):
        place.append((y.cell[:, None] * size[1] + x.cell).flatten() + start)
        start += size[0] * size[1]
        corners = (y.start[:, None], x.start[None], y.end[:, None], x.end[None])
        box.append(torch.stack([c.expand(size) for c in corners], dim=-1).flatten(0, 1))
        level.append(torch.full((size[0] * size[1],), number, device="cpu"))
        patches.append(((y.end - y.start)[:, None] * (x.end - x.start)).float())
        share.append((y.share[:, None] * x.share).flatten())
        if number:
            amount = patches[-2] if weighted else torch.ones(sizes[number - 1], device="cpu")
            scale.append(1.0 / add_pairs(add_pairs(amount, 0), 1))
            lacking.append(_lacking_slots(sizes[number - 1]))
    places, boxes, levels = torch.stack(place), torch.cat(box), torch.cat(level)
    first = boxes[:, 0] * sizes[0][1] + boxes[:, 1]
    coarser = torch.arange(len(sizes), device="cpu")[:, None] > levels
    return CellTables(
        place=places.to(device),
        first=first.to(device),
        box=boxes.to(device),
        level=levels.to(device),
        patches=torch.cat([count.flatten() for count in patches]).to(device),
        share=torch.stack(share).to(device),
        around=torch.where(coarser, places[:, first], start).to(device),
        lacking=[None if slots is None else slots.to(device) for slots in lacking],
        scale=[each.to(device) for each in scale],
    )


@lru_cache(maxsize=64)
def neighbour_tables(sizes: tuple[Size, ...], device: torch.device) -> NeighbourTables:
    """Build the table of overlapping cells of neighbouring frames, or return it.

    Every pair is there once: its finer cell starts at the cell's first patch, which the coarser
    one holds.
    """
    tables = cell_tables(sizes, False, torch.device("cpu"))
    finer, coarser = [], []
    for place, (patch, level) in enumerate(
        zip(tables.first.tolist(), tables.level.tolist(), strict=True)
    ):
        around = tables.place[level:, patch].tolist()
        finer += [place] * len(around)
        coarser += around
    one, other = torch.tensor(finer, device="cpu"), torch.tensor(coarser, device="cpu")
    unequal = one != other
    return NeighbourTables(
        earlier=torch.cat([other, one[unequal]]).to(device),
        later=torch.cat([one, other[unequal]]).to(device),
    )


@dataclass(frozen=True)
class _Side:
    """One side of the pyramid, per level.

    For every patch the cell that holds it and its share; for every cell its extent in patches.
    """

    cell: torch.Tensor
    share: torch.Tensor
    start: torch.Tensor
    end: torch.Tensor


def _side_tables(sizes: Sequence[int], weighted: bool) -> list[_Side]:
    position = torch.arange(sizes[0], device="cpu")
    cell, share = position, torch.ones(sizes[0], device="cpu")
    sides = [_Side(cell, share, position, position + 1)]
    for size in sizes[:-1]:
        parent = parent_index(size)
        children = torch.bincount(parent)
        cell = parent[cell]
        share = share / children[cell]
        patches = torch.bincount(cell)
        end = patches.cumsum(0)
        sides.append(_Side(cell, 1.0 / patches[cell] if weighted else share, end - patches, end))
    return sides


def _lacking_slots(finer: Size) -> torch.Tensor | None:
    """Return ``(h, 2, w, 2)`` bool: the child slots that a finer level leaves empty."""
    if not finer[0] % 2 and not finer[1] % 2:
        return None
    there = torch.ones((1, *finer, 1), device="cpu")
    return child_slots(there)[0, ..., 0] == 0
