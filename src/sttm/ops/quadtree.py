"""The spatial step: score every cell against its children, cut every frame's quadtree.

Source: STTM, section 3.1. Cost O(THW): every level is read once, in pieces of a few frames.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from sttm.ops.pyramid import CellTables, cell_tables, parent_index, pool
from sttm.ops.similarity import (
    cosines,
    needs_rescaling,
    piece_rows,
    products,
    rescaled,
)


@dataclass(frozen=True)
class Pooling:
    """How cells are pooled and compared.

    Args:
        weighted: pool by patches instead of by children.
        heads: equal parts of the channels that similarities are averaged over.
        published: pool in the dtype of the input and fill empty child slots as the published
            code does; otherwise pool in float32 and ignore empty slots.
    """

    weighted: bool = False
    heads: int = 1
    published: bool = False


@dataclass(frozen=True, eq=False)
class Quadtree:
    """Pooled features and scores of all cells of a video; level 0 is the finest.

    Args:
        frames: ``T``.
        sizes: ``(height, width)`` per level.
        tables: which cell holds which patch.
        pooling: how its cells were pooled and compared.
        levels: per level ``(T*h*w, C)`` features; the finest is the input itself.
        squares: per level ``(T*h*w, heads)`` float64 squared norms.
        scores: per level ``(T, h*w)`` float32: the least cosine between a cell and its children;
            1 at the finest level.
    """

    frames: int
    sizes: list[tuple[int, int]]
    tables: CellTables
    pooling: Pooling
    levels: list[torch.Tensor]
    squares: list[torch.Tensor]
    scores: list[torch.Tensor]

    @property
    def patches_per_frame(self) -> int:
        """``H*W``."""
        return self.sizes[0][0] * self.sizes[0][1]

    @property
    def num_levels(self) -> int:
        """Levels from the finest to the root."""
        return len(self.sizes)


@dataclass(frozen=True)
class Cut:
    """The cells that the spatial step emits, in the order of their anchors (time, then raster).

    Args:
        level: ``(N,)`` int64, the level of the cell that every input token belongs to.
        cell: ``(N,)`` int64 in [0, M), the index of that cell in this cut.
        anchor: ``(M,)`` int64, ascending: the top-left token of every cell.
    """

    level: torch.Tensor
    cell: torch.Tensor
    anchor: torch.Tensor

    @property
    def num_cells(self) -> int:
        """``M``."""
        return self.anchor.shape[0]


def child_scores(
    child: torch.Tensor,
    parent: torch.Tensor,
    child_square: torch.Tensor,
    parent_square: torch.Tensor,
    missing: Literal["ignored", "corner"] = "ignored",
) -> torch.Tensor:
    """Score every cell: the minimum cosine between it and its children.

    Args:
        child: ``(T, h, w, C)`` features of the finer level.
        parent: ``(T, (h + 1) // 2, (w + 1) // 2, C)``.
        child_square: ``(T, h, w, heads)`` squared norms.
        parent_square: the same for the parents.
        missing: an odd side leaves child slots empty: ``"ignored"``, or compared as if cell
            (0, 0) of the same frame stood there, as the published code does.

    Returns:
        ``(T, (h + 1) // 2, (w + 1) // 2)`` float32.
    """
    heads = child_square.shape[-1]

    def compare(
        a: torch.Tensor, a2: torch.Tensor, b: torch.Tensor, b2: torch.Tensor
    ) -> torch.Tensor:
        return cosines(products(a, b, heads), a2, b2)

    odd_rows, odd_columns = child.shape[1] % 2, child.shape[2] % 2
    score = torch.ones(parent.shape[:3], device=child.device)
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        slot = (
            slice(None),
            slice(odd_rows if row == 0 else 1 - odd_rows, None, 2),
            slice(odd_columns if column == 0 else 1 - odd_columns, None, 2),
        )
        # The first slot of an odd side is empty in the first parent.
        owner = (
            slice(None),
            slice(odd_rows if row == 0 else 0, None),
            slice(odd_columns if column == 0 else 0, None),
        )
        similarity = compare(child[slot], child_square[slot], parent[owner], parent_square[owner])
        score[owner] = torch.minimum(score[owner], similarity)
    if missing == "corner":
        corner, corner_square = child[:, :1, :1], child_square[:, :1, :1]
        everything, leading = slice(None), slice(0, 1)
        borders = [(everything, leading, everything)] * odd_rows
        borders += [(everything, everything, leading)] * odd_columns
        for border in borders:
            similarity = compare(parent[border], parent_square[border], corner, corner_square)
            score[border] = torch.minimum(score[border], similarity)
    return score


def grow(x: torch.Tensor, frames: int, sizes: list[tuple[int, int]], pooling: Pooling) -> Quadtree:
    """Pool and score the whole pyramid, reading ``x`` once in pieces of a few frames.

    Args:
        x: ``(N, C)`` floating and finite, order t, y, x. Not modified, not copied.
        frames: ``T``.
        sizes: ``(height, width)`` per level, finest first.
        pooling: how cells are pooled and compared.
    """
    height, width = sizes[0]
    tables = cell_tables(sizes, pooling.weighted, x.device)
    step = piece_rows(height * width * x.shape[1], x.device)
    pieces = [
        _grow_piece(piece, tables, pooling)
        for piece in torch.split(x.reshape(frames, height, width, -1), step)
    ]
    levels, squares, scores = (
        [torch.cat(parts) for parts in zip(*kind, strict=True)]
        for kind in zip(*pieces, strict=True)
    )
    if needs_rescaling(squares[0]):
        return grow(rescaled(x), frames, sizes, pooling)
    return Quadtree(
        frames=frames,
        sizes=sizes,
        tables=tables,
        pooling=pooling,
        levels=[x, *(level.flatten(0, 2) for level in levels)],
        squares=[square.flatten(0, 2) for square in squares],
        scores=[score.flatten(1) for score in scores],
    )


def _grow_piece(
    x: torch.Tensor, tables: CellTables, pooling: Pooling
) -> tuple[list[torch.Tensor], list[torch.Tensor], list[torch.Tensor]]:
    """Return the coarse levels, and the squared norms and scores of all levels, of some frames."""
    stored = x.dtype if pooling.published else torch.float32
    child = x.float()
    square = products(child, child, pooling.heads)
    levels, squares, scores = [], [square], [torch.ones(square.shape[:-1], device=x.device)]
    for patches in tables.patches[:-1]:
        parent = pool(child, patches if pooling.weighted else None).to(stored)
        levels.append(parent)
        parent = parent.float()
        parent_square = products(parent, parent, pooling.heads)
        missing: Literal["ignored", "corner"] = "corner" if pooling.published else "ignored"
        scores.append(child_scores(child, parent, square, parent_square, missing))
        squares.append(parent_square)
        child, square = parent, parent_square
    return levels, squares, scores


def cut(tree: Quadtree, threshold: float | None) -> Cut:
    """Cut every frame's quadtree: the coarsest cells whose score reaches the threshold.

    Args:
        tree: the scored pyramid.
        threshold: least cosine to stop at; None keeps the finest cells.
    """
    least = math.inf if threshold is None else threshold
    return emit_cells(tree, [scores >= least for scores in tree.scores[1:]])


def emit_cells(tree: Quadtree, merged: Sequence[torch.Tensor]) -> Cut:
    """Emit the coarsest merged cell around every patch, or the patch itself.

    Args:
        tree: the pyramid; its scores are not read.
        merged: per level but the finest ``(T, h*w)`` bool.
    """
    device = tree.scores[0].device
    level = torch.zeros_like(tree.scores[-1], dtype=torch.int64)
    for number in range(tree.num_levels - 1, 0, -1):
        level = torch.where((level == 0) & merged[number - 1], number, level)
        level = level[:, parent_cells(tree.sizes[number - 1]).to(device)]
    patch = torch.arange(tree.patches_per_frame, device=device)
    frame_start = torch.arange(tree.frames, device=device)[:, None] * tree.patches_per_frame
    first = (tree.tables.first[level, patch] + frame_start).flatten()
    is_anchor = first == torch.arange(first.shape[0], device=device)
    return Cut(
        level=level.flatten(),
        cell=(is_anchor.cumsum(0) - 1)[first],
        anchor=is_anchor.nonzero().squeeze(1),
    )


def parent_cells(size: tuple[int, int]) -> torch.Tensor:
    """Return ``(h*w,)``: the parent's raster index of every cell of a level of this size."""
    height, width = size
    rows, columns = parent_index(height), parent_index(width)
    return (rows[:, None] * ((width + 1) // 2) + columns).flatten()


def cell_rows(tree: Quadtree, token: torch.Tensor, level: int) -> torch.Tensor:
    """Return the row, in ``tree.levels[level]``, of the cell that holds each token."""
    frame = token.div(tree.patches_per_frame, rounding_mode="floor")
    height, width = tree.sizes[level]
    return frame * (height * width) + tree.tables.cell[level, token % tree.patches_per_frame]


def boxes(tree: Quadtree, token: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
    """Return the boxes of the cells that hold the tokens.

    Args:
        tree: the pyramid.
        token: ``(M,)`` int64.
        level: ``(M,)`` int64, the cells' levels.

    Returns:
        ``(M, 5)`` int64: t, y0, x0, y1, x1, end-exclusive, in patches.
    """
    frame = token.div(tree.patches_per_frame, rounding_mode="floor")
    corners = tree.tables.box[level, token % tree.patches_per_frame]
    return torch.cat([frame[:, None], corners], dim=1)
