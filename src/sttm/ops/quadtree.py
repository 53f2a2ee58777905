"""The spatial step: score every cell against its children, cut every frame's quadtree.

Source: STTM, section 3.1. Cost O(THW): every level is read once, in pieces of a few frames.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import torch

from sttm.kernels import use_kernels
from sttm.ops.pyramid import CellTables, Size, cell_tables, child_slots, pool
from sttm.ops.similarity import can_select, cosines, paired_products, piece_rows, products


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

    A cell's *row* is its number among all cells of the video: the ``N`` tokens first, then frame
    by frame the ``K`` coarser cells of the frame, in the order of their places (see `CellTables`).

    Args:
        frames: ``T``.
        sizes: ``(height, width)`` per level.
        tables: which cell holds which patch.
        pooling: how its cells were pooled and compared.
        x: ``(N, C)`` the input itself, not a copy.
        coarse: ``(T, K, C)`` the features of the coarser cells.
        squares: ``(N + T*K, heads)`` float64 squared norms of all rows.
        scores: ``(T, K)`` float32: the least cosine between a coarser cell and its children.
    """

    frames: int
    sizes: tuple[Size, ...]
    tables: CellTables
    pooling: Pooling
    x: torch.Tensor
    coarse: torch.Tensor
    squares: torch.Tensor
    scores: torch.Tensor

    @property
    def device(self) -> torch.device:
        """Where the video is."""
        return self.x.device

    @property
    def patches_per_frame(self) -> int:
        """``H*W``."""
        return self.sizes[0][0] * self.sizes[0][1]

    @property
    def num_tokens(self) -> int:
        """``N``."""
        return self.frames * self.patches_per_frame

    @property
    def num_levels(self) -> int:
        """Levels from the finest to the root."""
        return len(self.sizes)

    @property
    def coarse_sizes(self) -> list[int]:
        """Cells per frame of every level but the finest; they sum to ``K``."""
        return [height * width for height, width in self.sizes[1:]]

    @cached_property
    def rows(self) -> torch.Tensor:
        """``(T, P)`` int64, the row of the cell at every place of every frame."""
        row = torch.arange(self.squares.shape[0], device=self.device)
        fine, coarse = row[: self.num_tokens], row[self.num_tokens :]
        return torch.cat([part.view(self.frames, -1) for part in (fine, coarse)], dim=1)

    @cached_property
    def anchors(self) -> torch.Tensor:
        """``(T, P)`` int64, the top-left token of the cell at every place of every frame."""
        frame = torch.arange(self.frames, device=self.device)
        return torch.add(self.tables.first, frame[:, None], alpha=self.patches_per_frame)

    def levels(self, first: int, end: int) -> list["Level"]:
        """Return what is known of some frames, level by level, finest first; views, not copies."""
        fine, coarse = (
            part.view(self.frames, -1, self.pooling.heads)[first:end]
            for part in self.squares.tensor_split([self.num_tokens])
        )
        sizes = self.coarse_sizes
        features = torch.split(self.coarse[first:end], sizes, dim=1)
        squares = torch.split(coarse, sizes, dim=1)
        scores = torch.split(self.scores[first:end], sizes, dim=1)
        patches = torch.split(self.tables.patches, [self.patches_per_frame, *sizes])
        x = self.x.view(self.frames, self.patches_per_frame, -1)[first:end]
        finest = Level(patches[0], x, fine, self.scores[first:end, :0])
        return [finest, *map(Level, patches[1:], features, squares, scores)]

    @cached_property
    def _parts(self) -> list[tuple[int, torch.Tensor]]:
        """First rows, and features from there on; in one part where rows cannot be sorted out."""
        if can_select(self.device):
            return [(0, self.x), (self.num_tokens, self.coarse.flatten(0, 1))]
        return [(0, torch.cat([self.x.float(), self.coarse.flatten(0, 1).float()]))]

    def cosines(self, row: torch.Tensor, other: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Return ``(E,)`` float32, the cosines of the pooled features of the wanted pairs of rows.

        Args:
            row: ``(E,)`` int64.
            other: ``(E,)`` int64.
            wanted: ``(E,)`` bool; the value of another pair means nothing.
        """
        heads = self.pooling.heads
        if use_kernels(self.device):
            from sttm.kernels.pair_cosines import pair_cosines

            return pair_cosines(self.x, self.coarse.flatten(0, 1), self.squares, row, other, wanted)
        if len(self._parts) == 1:
            features = self._parts[0][1]
            dot = paired_products(features, row, features, other, heads)
            return cosines(dot, self.squares[row], self.squares[other])
        dot = self.squares.new_empty((row.shape[0], heads))
        part, other_part = (index >= self.num_tokens for index in (row, other))
        for one, (start, features) in enumerate(self._parts):
            for two, (other_start, other_features) in enumerate(self._parts):
                index = ((part == one) & (other_part == two)).nonzero().squeeze(1)
                if index.shape[0]:
                    rows, others = row[index] - start, other[index] - other_start
                    dot[index] = paired_products(features, rows, other_features, others, heads)
        return cosines(dot, self.squares[row], self.squares[other])


class Level(NamedTuple):
    """One level of some frames of a pyramid, with ``k`` cells per frame.

    Args:
        patches: ``(k,)`` float32, the patches of every cell.
        features: ``(T, k, C)``.
        squares: ``(T, k, heads)`` float64.
        scores: ``(T, k)`` float32; of the finest level none.
    """

    patches: torch.Tensor
    features: torch.Tensor
    squares: torch.Tensor
    scores: torch.Tensor


@dataclass(frozen=True)
class Cut:
    """The cells that the spatial step emits.

    Args:
        level: ``(N,)`` int64, the level of the cell that every token belongs to.
        row: ``(N,)`` int64, the row of that cell.
        anchor: ``(N,)`` int64, the top-left token of that cell, which stands for it.
    """

    level: torch.Tensor
    row: torch.Tensor
    anchor: torch.Tensor

    @cached_property
    def is_anchor(self) -> torch.Tensor:
        """``(N,)`` bool: the tokens that stand for a cell."""
        return self.anchor == torch.arange(self.anchor.shape[0], device=self.anchor.device)

    @property
    def num_cells(self) -> int:
        """The cells. Waits for the device."""
        return int(self.is_anchor.sum())


def child_scores(
    child: torch.Tensor,
    parent: torch.Tensor,
    child_square: torch.Tensor,
    parent_square: torch.Tensor,
    lacking: torch.Tensor | None = None,
) -> torch.Tensor:
    """Score every cell: the minimum cosine between it and its children.

    Args:
        child: ``(T, h, w, C)`` features of the finer level.
        parent: ``(T, (h + 1) // 2, (w + 1) // 2, C)``.
        child_square: ``(T, h, w, heads)`` squared norms.
        parent_square: the same for the parents.
        lacking: ``((h + 1) // 2, 2, (w + 1) // 2, 2)`` bool: empty child slots, which do not count.

    Returns:
        ``(T, (h + 1) // 2, (w + 1) // 2)`` float32.
    """
    dot = products(child_slots(child), parent[:, :, None, :, None], child_square.shape[-1])
    cosine = cosines(dot, child_slots(child_square), parent_square[:, :, None, :, None])
    if lacking is not None:
        cosine = cosine.masked_fill(lacking, 1.0)
    return cosine.amin(dim=(2, 4))


def _fill_as_published(
    score: torch.Tensor,
    child: torch.Tensor,
    parent: torch.Tensor,
    child_square: torch.Tensor,
    parent_square: torch.Tensor,
) -> None:
    """Compare empty child slots as if cell (0, 0) of the same frame stood there."""
    corner, corner_square = child[:, :1, :1], child_square[:, :1, :1]
    everything, leading = slice(None), slice(0, 1)
    borders = [(everything, leading, everything)] * (child.shape[1] % 2)
    borders += [(everything, everything, leading)] * (child.shape[2] % 2)
    for border in borders:
        dot = products(parent[border], corner, child_square.shape[-1])
        similarity = cosines(dot, parent_square[border], corner_square)
        score[border] = torch.minimum(score[border], similarity)


def grow(x: torch.Tensor, frames: int, sizes: tuple[Size, ...], pooling: Pooling) -> Quadtree:
    """Pool and score the whole pyramid, reading ``x`` once in pieces of a few frames.

    Cosines are right while the squared norms are in `SAFE_SQUARE`; see `largest_square`.

    Args:
        x: ``(N, C)`` floating and finite, order t, y, x. Not modified, not copied.
        frames: ``T``.
        sizes: ``(height, width)`` per level, finest first.
        pooling: how cells are pooled and compared.
    """
    tables = cell_tables(sizes, pooling.weighted, x.device)
    tokens, channels = x.shape
    patches = tokens // frames
    cells = tables.first.shape[0] - patches
    stored = x.dtype if pooling.published else torch.float32
    tree = Quadtree(
        frames=frames,
        sizes=sizes,
        tables=tables,
        pooling=pooling,
        x=x,
        coarse=x.new_empty((frames, cells, channels), dtype=stored),
        squares=x.new_empty((tokens + frames * cells, pooling.heads), dtype=torch.float64),
        scores=x.new_empty((frames, cells), dtype=torch.float32),
    )
    if use_kernels(x.device) and tree.num_levels > 1:
        _grow_by_kernels(tree)
        return tree
    step = piece_rows(patches * channels, x.device)
    for first in range(0, frames, step):
        _grow_piece(tree, first, min(first + step, frames))
    return tree


def _grow_piece(tree: Quadtree, first: int, end: int) -> None:
    """Fill in the coarser levels, the squared norms and the scores of some frames."""
    pooling, tables = tree.pooling, tree.tables
    levels = tree.levels(first, end)
    child = levels[0].features.view(end - first, *tree.sizes[0], -1).float()
    square = products(child, child, pooling.heads)
    levels[0].squares[:] = square.flatten(1, 2)
    for number, (finer, level) in enumerate(pairwise(levels)):
        weights = finer.patches.view(tree.sizes[number]) if pooling.weighted else None
        parent = pool(child, tables.scale[number], weights).to(tree.coarse.dtype)
        level.features[:] = parent.flatten(1, 2)
        parent = parent.float()
        parent_square = products(parent, parent, pooling.heads)
        level.squares[:] = parent_square.flatten(1, 2)
        score = child_scores(child, parent, square, parent_square, tables.lacking[number])
        if pooling.published:
            _fill_as_published(score, child, parent, square, parent_square)
        level.scores[:] = score.flatten(1)
        child, square = parent, parent_square


def _grow_by_kernels(tree: Quadtree) -> None:
    """Fill in the same of all frames, with one kernel per level."""
    from sttm.kernels.pooled_scores import pooled_scores

    for number, (finer, level) in enumerate(pairwise(tree.levels(0, tree.frames))):
        pooled_scores(
            finer.features,
            finer.squares,
            tree.sizes[number],
            tree.tables.scale[number],
            finer.patches if tree.pooling.weighted else None,
            level.features,
            level.squares,
            level.scores,
            tree.pooling.published,
        )


def largest_square(tree: Quadtree) -> torch.Tensor:
    """Return the largest squared norm of a token, a scalar."""
    return tree.squares[: tree.num_tokens].max()


def cut(tree: Quadtree, threshold: float | None) -> Cut:
    """Cut every frame's quadtree: the coarsest cells whose score reaches the threshold.

    Args:
        tree: the scored pyramid.
        threshold: least cosine to stop at; None keeps the finest cells.
    """
    return emit_cells(tree, tree.scores >= (math.inf if threshold is None else threshold))


def emit_cells(tree: Quadtree, merged: torch.Tensor) -> Cut:
    """Emit the coarsest merged cell around every patch, or the patch itself.

    Args:
        tree: the pyramid; its scores are not read.
        merged: ``(T, K)`` bool.
    """
    patch, coarser = tree.tables.place.tensor_split([1])
    place = patch.expand(tree.frames, -1)
    if tree.num_levels > 1:  # of two places the larger one is that of the coarser cell
        around = merged[:, coarser - tree.patches_per_frame]
        place = torch.maximum(place, (around * coarser).amax(dim=1))
    return Cut(
        level=tree.tables.level[place].flatten(),
        row=tree.rows.gather(1, place).flatten(),
        anchor=tree.anchors.gather(1, place).flatten(),
    )


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
    place = tree.tables.place[level, token % tree.patches_per_frame]
    return torch.cat([frame[:, None], tree.tables.box[place]], dim=1)
