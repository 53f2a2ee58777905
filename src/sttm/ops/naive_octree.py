"""A literal slow twin of the octree: the oracle of its tests, sharing no code with the fast one."""

from dataclasses import dataclass, field
from itertools import product

import torch

from sttm.ops.naive_field import Vector, best, cosine, mean

Place = tuple[int, int, int]


@dataclass(eq=False)
class Cube:
    """A cell of the octree.

    Args:
        level: 0 for a token.
        place: its t, y, x in its level.
        feature: the mean over its children.
        children: cells of the level below, in raster order.
        corner: the first cell of the level below, if fewer children are there than a cube has.
    """

    level: int
    place: Place
    feature: Vector
    children: list["Cube"] = field(default_factory=list)
    corner: "Cube | None" = None

    @property
    def score(self) -> float:
        """The least cosine with a child or what stands in for a missing one; 1 for a token."""
        others = self.children if self.corner is None else [*self.children, self.corner]
        return min((cosine(self.feature, c.feature) for c in others), default=1.0)

    def tokens(self) -> list[Place]:
        """Return the places of the tokens inside."""
        if not self.children:
            return [self.place]
        return [token for child in self.children for token in child.tokens()]

    def cut(self, threshold: float) -> list["Cube"]:
        """Return the largest cells inside whose score reaches the threshold."""
        if self.score >= threshold or not self.children:
            return [self]
        return [cell for child in self.children for cell in child.cut(threshold)]


def octree_roots(
    x: torch.Tensor, size: Place, levels: int, corner: bool, whole: bool = False
) -> list[Cube]:
    """Build the octrees of ``(N, C)`` features up to a number of levels; return the roots.

    Time is cut into cubes of as many frames as a frame has columns. Each of the
    frames that are left has a tree of its own, in space alone.

    Args:
        x: the features.
        size: frames, rows, columns.
        levels: of each tree.
        corner: compare a child that an odd side lacks as if it were its level's first cell.
        whole: one tree for the whole video instead.
    """
    frames, rows, columns = size
    side = frames if whole else columns
    lengths = [side] * (frames // side) + [1] * (frames % side)
    tokens, roots, begin = x.double().tolist(), list[Cube](), 0
    for length in lengths:
        places = list(product(range(begin, begin + length), range(rows), range(columns)))
        cells = [Cube(0, p, tokens[(p[0] * rows + p[1]) * columns + p[2]]) for p in places]
        roots += _grow(cells, (length, rows, columns), begin, levels, corner)
        begin += length
    return roots


def _grow(cells: list[Cube], size: Place, begin: int, levels: int, corner: bool) -> list[Cube]:
    full = 8 if size[0] > 1 else 4
    for level in range(1, levels):
        parents: dict[Place, list[Cube]] = {}
        for cell in cells:
            inside = (cell.place[0] - begin, *cell.place[1:])
            parents.setdefault(_above(inside, size), []).append(cell)
        first = cells[0] if corner else None
        cells = [
            Cube(
                level,
                (place[0] + begin, *place[1:]),
                mean([c.feature for c in inside]),
                inside,
                first if len(inside) < full else None,
            )
            for place, inside in sorted(parents.items())
        ]
        size = ((size[0] + 1) // 2, (size[1] + 1) // 2, (size[2] + 1) // 2)
    return cells


def _above(place: Place, size: Place) -> Place:
    """Return where a cell's parent stands; an odd side leaves its first row alone."""
    t, y, x = ((p + n % 2) // 2 for p, n in zip(place, size, strict=True))
    return t, y, x


def octree_groups(roots: list[Cube], count: int) -> list[list[Place]]:
    """Open cells, least score first, to a count; return the places of every group's tokens."""
    closed = [(root, root.score) for root in roots]
    while True:
        # What keeps a cell closed is its own score or that of a cell above it.
        candidates = [(reach, -c.level, c.place, i) for i, (c, reach) in enumerate(closed)]
        candidates = [c for c in candidates if closed[c[3]][0].children]
        if not candidates:
            return [cell.tokens() for cell, _ in closed]
        index = min(candidates)[3]
        cell, reach = closed[index]
        more = count - len(closed)
        if len(cell.children) - 1 > more:
            break
        closed.pop(index)
        closed += [(child, max(reach, child.score)) for child in cell.children]
    groups = [other.tokens() for other, _ in closed if other is not cell]
    unlike = best([-cosine(cell.feature, child.feature) for child in cell.children], more)
    groups += [cell.children[i].tokens() for i in unlike]
    rest = [c for i, c in enumerate(cell.children) if i not in unlike]
    return [*groups, [token for child in rest for token in child.tokens()]]
