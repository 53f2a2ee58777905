"""Cubes of tokens in time, rows and columns jointly, scored against their children.

All three sides halve together, each by the rule of `sttm.ops.pyramid`: an odd side leaves its
first row alone. A cube is the plain mean over its (up to eight) children. A video is cut into boxes
of frames, each with a tree of its own.

Source: the Octree comparison of STTM, arXiv 2507.07990.
"""

import itertools
from dataclasses import dataclass

import torch

from sttm.ops.pyramid import add_pairs, parent_index
from sttm.ops.selection import stable_topk
from sttm.ops.similarity import cosines, needs_rescaling, piece_rows, products, rescaled

Size = tuple[int, int, int]


@dataclass(frozen=True)
class Octree:
    """All cells of a video, box by box; level 0 holds the tokens.

    Args:
        sizes: ``(frames, height, width)`` of the first box, per level.
        parent: per level but the last ``(cells,)`` int64: the cell of the next level.
        cosine: per level but the last ``(cells,)`` float32: the cosine with the parent.
        score: per level ``(cells,)`` float32: the least cosine with a child; 1 at level 0.
    """

    sizes: list[Size]
    parent: list[torch.Tensor]
    cosine: list[torch.Tensor]
    score: list[torch.Tensor]


def octree_sizes(frames: int, height: int, width: int, *, to_single: bool = False) -> list[Size]:
    """List the sizes of every level, finest first.

    Args:
        frames: frames of the finest level.
        height: its rows.
        width: its columns.
        to_single: go on to one cell instead of stopping where a frame's side is 2 or 1.
    """
    sizes = [(frames, height, width)]
    while max(sizes[-1]) > 1 if to_single else min(sizes[-1][1:]) > 2:
        t, y, x = sizes[-1]
        sizes.append(((t + 1) // 2, (y + 1) // 2, (x + 1) // 2))
    return sizes


def grow_octree(x: torch.Tensor, boxes: list[list[Size]], *, corner: bool = False) -> Octree:
    """Pool and score all levels, reading ``x`` once.

    Args:
        x: ``(N, C)`` floating and finite, order t, y, x. Not modified.
        boxes: for each box, in order of time, the sizes of its levels from `octree_sizes`, or its
            first entries; all of the same number.
        corner: compare each child that an odd side lacks as if it were the box's first cell, as the
            published code does.
    """
    tokens = [frames * height * width for frames, height, width in (box[0] for box in boxes)]
    grown = [_grow(part, box, corner) for part, box in zip(torch.split(x, tokens), boxes)]
    if any(tree is None for tree in grown):
        return grow_octree(rescaled(x), boxes, corner=corner)
    trees = [tree for tree in grown if tree is not None]
    parents = []
    for level in range(len(boxes[0]) - 1):
        counts = [tree.score[level + 1].shape[0] for tree in trees]
        offsets = [0, *itertools.accumulate(counts)]
        parents.append(torch.cat([t.parent[level] + at for t, at in zip(trees, offsets)]))
    cosine = [torch.cat(parts) for parts in zip(*(tree.cosine for tree in trees))]
    score = [torch.cat(parts) for parts in zip(*(tree.score for tree in trees))]
    return Octree(list(boxes[0]), parents, cosine, score)


def _grow(x: torch.Tensor, sizes: list[Size], corner: bool) -> Octree | None:
    """Grow the tree of one box; None if its features need another scale."""
    level = x.reshape(*sizes[0], -1)
    parents, cosine = [], []
    score = [torch.ones(x.shape[0], device=x.device)]
    for index, size in enumerate(sizes[:-1]):
        parent, first = _parents(size).to(x.device), level[0, 0, 0].float()
        level, likeness, largest = _coarser(level)
        if index == 0 and needs_rescaling(largest):
            return None
        least = torch.ones(level[..., 0].numel(), device=x.device)
        least = least.scatter_reduce_(0, parent, likeness, "amin")
        if corner:
            flat = level.reshape(-1, level.shape[-1])
            same = cosines(
                products(flat, first, 1), products(flat, flat, 1), products(first, first, 1)
            )
            lacks = torch.bincount(parent) < (8 if sizes[0][0] > 1 else 4)
            least = torch.where(lacks, torch.minimum(least, same.flatten()), least)
        score.append(least)
        parents.append(parent)
        cosine.append(likeness)
    return Octree(list(sizes), parents, cosine, score)


def _parents(size: Size) -> torch.Tensor:
    """Return ``(cells,)`` int64: the parent of every cell of a level of this size."""
    t, y, x = (parent_index(side) for side in size)
    rows, columns = (size[1] + 1) // 2, (size[2] + 1) // 2
    return ((t[:, None, None] * rows + y[:, None]) * columns + x).flatten()


def _coarser(level: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the next level, every child's cosine with its parent, the largest squared norm."""
    frames, height, width, channels = level.shape
    odd, pairs = frames % 2, (frames + 1) // 2
    step = piece_rows(2 * height * width * channels, level.device)
    pooled, cosine, largest = [], [], []
    for start in range(0, pairs, step):
        first = max(0, 2 * start - odd)
        child = level[first : 2 * min(start + step, pairs) - odd].float()
        cell, likeness, square = _pool_and_compare(child)
        pooled.append(cell)
        cosine.append(likeness.flatten())
        largest.append(square.max())
    return torch.cat(pooled), torch.cat(cosine), torch.stack(largest)


def _pool_and_compare(child: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Pool ``(t, h, w, C)`` float32; return the parents, the cosines, the squared norms."""
    t, y, x = (parent_index(side).to(child.device) for side in child.shape[:3])
    cell = add_pairs(add_pairs(add_pairs(child, 0), 1), 2)
    children = t.bincount()[:, None, None] * y.bincount()[:, None] * x.bincount()
    cell.mul_((1.0 / children)[..., None])
    own = (t[:, None, None], y[:, None], x)
    square, cell_square = products(child, child, 1), products(cell, cell, 1)
    dot = products(child, cell[own], 1)
    return cell, cosines(dot, square, cell_square[own]), square


def opened_below(tree: Octree, threshold: float) -> list[torch.Tensor]:
    """Open every cell that scores below the threshold, from the roots down.

    Returns:
        per level ``(cells,)`` bool; level 0 is never open.
    """
    opened = [reach < threshold for reach in _reaches(tree)]
    opened[0] = torch.zeros_like(opened[0])
    return opened


def _reaches(tree: Octree) -> list[torch.Tensor]:
    """Return per level the largest score among each cell and the cells above it.

    A threshold above this value opens the cell and all cells above it.
    """
    reach = [tree.score[-1]]
    for score, parent in zip(reversed(tree.score[:-1]), reversed(tree.parent), strict=True):
        reach.append(torch.maximum(score, reach[-1][parent]))
    return reach[::-1]


def labels(tree: Octree, opened: list[torch.Tensor]) -> torch.Tensor:
    """Return ``(N,)`` int64: the label of every token's closed cell, all cells above it open."""
    cells = [torch.arange(score.shape[0], device=score.device) for score in tree.score]
    offset = 0
    label = torch.zeros_like(cells[-1])
    closed = torch.zeros_like(opened[-1])
    for level in range(len(tree.sizes) - 1, -1, -1):
        if level < len(tree.sizes) - 1:
            parent = tree.parent[level]
            label, closed = label[parent], closed[parent]
        label = torch.where(closed, label, cells[level] + offset)
        closed = closed | ~opened[level]
        offset += cells[level].shape[0]
    return label


def labels_of_count(tree: Octree, count: int) -> torch.Tensor:
    """Open cells, least score first, to exactly ``count`` cells.

    Where opening the next cell would give too many cells, only some of its children become cells of
    their own: those least similar to it. The others stay together.

    Args:
        tree: the scored cells.
        count: from the number of roots to ``N``.

    Returns:
        ``(N,)`` int64 labels, ``count`` different ones.
    """
    reach = _reaches(tree)
    coarse = range(len(tree.sizes) - 1, 0, -1)
    # Coarser levels first: a cell is opened after its parent even where their reach is the same.
    order = torch.cat([reach[level] for level in coarse] or [reach[0][:0]]).sort(stable=True)
    gain = [torch.bincount(tree.parent[level - 1]) - 1 for level in coarse]
    gains = torch.cat(gain or [order.indices])[order.indices]
    total = gains.cumsum(0) + tree.score[-1].shape[0]
    num_open = int((total <= count).sum())
    is_open = torch.zeros_like(gains, dtype=torch.bool)
    is_open[order.indices[:num_open]] = True
    parts = torch.split(is_open, [tree.score[level].shape[0] for level in coarse])
    opened = [torch.zeros_like(tree.score[0], dtype=torch.bool), *reversed(parts)]
    label = labels(tree, opened)
    done = int(total[num_open - 1]) if num_open > 0 else tree.score[-1].shape[0]
    if done < count:
        label = _split_off(tree, label, int(order.indices[num_open]), count - done)
    return label


def _split_off(tree: Octree, label: torch.Tensor, place: int, more: int) -> torch.Tensor:
    """Give the ``more`` children that are least similar to a closed cell labels of their own."""
    level = len(tree.sizes) - 1
    while place >= tree.score[level].shape[0]:
        place -= tree.score[level].shape[0]
        level -= 1
    child = (tree.parent[level - 1] == place).nonzero().squeeze(1)
    alone = child[stable_topk(-tree.cosine[level - 1][child], more)]
    cell = torch.arange(label.shape[0], device=label.device)
    for parent in tree.parent[: level - 1]:
        cell = parent[cell]
    # Labels of cells are below the number of all cells.
    fresh = sum(score.shape[0] for score in tree.score)
    for number, own in enumerate(alone.tolist()):
        label = torch.where(cell == own, fresh + number, label)
    return label


def root_shares(tree: Octree) -> torch.Tensor:
    """Return ``(N,)`` float32: every token's weight in its root.

    The weights in any other cell are in the same proportion, since all tokens of a cell have the
    same cells above it.
    """
    share = torch.ones_like(tree.score[0])
    cell = torch.arange(share.shape[0], device=share.device)
    for parent in tree.parent:
        cell = parent[cell]
        share = share / torch.bincount(parent)[cell]
    return share
