"""Literal slow twins of the fast operations: the oracle of the tests.

Plain loops over cells and pairs, in float64, written from the definitions and sharing no code with
the fast path. One cell is one object; every pair of cells of neighbouring frames is looked at.

Source: STTM, sections 3.1-3.2.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import torch

Box = tuple[int, int, int, int, int]
Link = tuple[int, int, float]


@dataclass(eq=False)
class Cell:
    """A rectangle of patches of one frame.

    Args:
        box: t, y0, x0, y1, x1, end-exclusive.
        feature: ``(C,)`` float64.
        slots: the four child slots in raster order, None where an odd side leaves one empty;
            no slots at the finest level.
        corner: the cell (0, 0) of the child level in the same frame.
    """

    box: Box
    feature: torch.Tensor
    slots: list["Cell | None"] = field(default_factory=list)
    corner: "Cell | None" = None

    @property
    def patches(self) -> int:
        """Patches inside the box."""
        _, y0, x0, y1, x1 = self.box
        return (y1 - y0) * (x1 - x0)

    def contains(self, other: "Cell") -> bool:
        """Tell whether the other cell's box, its frame aside, lies inside this one's."""
        _, y0, x0, y1, x1 = self.box
        _, v0, u0, v1, u1 = other.box
        return y0 <= v0 and x0 <= u0 and v1 <= y1 and u1 <= x1


@dataclass(frozen=True)
class Settings:
    """What `merge` needs to know; the meaning is that of the fields of ``STTM``."""

    spatial_threshold: float | None = 0.80
    temporal_threshold: float | None = 0.60
    root_level: int = 1
    linking: str = "directed"
    parent: str = "most_similar"
    weighted: bool = False
    heads: int = 1


@dataclass(frozen=True)
class Merged:
    """What `merge` found.

    Args:
        cells: the emitted cells in order.
        links: all overlapping pairs with their cosines, before the threshold.
        scores: the scores of all visited cells.
        root: for every cell the index of its representative.
        features: ``(M, C)`` float64.
        group: for every token the output token.
    """

    cells: list[Cell]
    links: list[Link]
    scores: list[float]
    root: list[int]
    features: torch.Tensor
    group: list[int]


def cosine(a: torch.Tensor, b: torch.Tensor, heads: int = 1) -> float:
    """Return the mean over heads of the cosine; 0 where a vector is zero."""
    total = 0.0
    for part_a, part_b in zip(torch.chunk(a, heads), torch.chunk(b, heads), strict=True):
        length = float(part_a.norm()) * float(part_b.norm())
        total += float(part_a @ part_b) / length if length > 0 else 0.0
    return total / heads


def halve(size: int) -> list[list[int]]:
    """List every parent's children along one side; an odd side leaves the first one alone."""
    if size % 2 == 0:
        return [[i, i + 1] for i in range(0, size, 2)]
    return [[0]] + [[i, i + 1] for i in range(1, size, 2)]


def join(slots: list[Cell | None], weighted: bool, dtype: torch.dtype) -> Cell:
    """Pool children into their parent; the feature is rounded to ``dtype``."""
    children = [child for child in slots if child is not None]
    amounts = [child.patches if weighted else 1 for child in children]
    feature = sum(
        (child.feature * n for child, n in zip(children, amounts, strict=True)),
        start=torch.zeros_like(children[0].feature),
    )
    box = (
        children[0].box[0],
        min(child.box[1] for child in children),
        min(child.box[2] for child in children),
        max(child.box[3] for child in children),
        max(child.box[4] for child in children),
    )
    return Cell(box, (feature / sum(amounts)).to(dtype).double(), slots)


def coarsen(level: list[list[Cell]], weighted: bool, dtype: torch.dtype) -> list[list[Cell]]:
    """Build the next coarser level of one frame."""
    rows, columns = halve(len(level)), halve(len(level[0]))
    coarse = []
    for row in rows:
        line = []
        for column in columns:
            slots: list[Cell | None] = []
            for y in [None, *row][-2:]:
                for x in [None, *column][-2:]:
                    slots.append(None if y is None or x is None else level[y][x])
            cell = join(slots, weighted, dtype)
            cell.corner = level[0][0]
            line.append(cell)
        coarse.append(line)
    return coarse


def pyramid(frame: torch.Tensor, t: int, settings: Settings, dtype: torch.dtype) -> list[Cell]:
    """Build one frame's pyramid and return the cells of its root level.

    Args:
        frame: ``(H, W, C)`` float64.
        t: the frame's index.
        settings: root level and pooling.
        dtype: pooled features are rounded to it.
    """
    height, width = frame.shape[:2]
    levels = [
        [[Cell((t, y, x, y + 1, x + 1), frame[y, x]) for x in range(width)] for y in range(height)]
    ]
    while len(levels[-1]) > 2 and len(levels[-1][0]) > 2:
        levels.append(coarsen(levels[-1], settings.weighted, dtype))
    coarsest_first = levels[::-1]
    finest_only = settings.root_level == -1 or settings.spatial_threshold is None
    index = -1 if finest_only else min(settings.root_level, len(levels) - 1)
    return [cell for line in coarsest_first[index] for cell in line]


def score(cell: Cell, settings: Settings) -> float:
    """Return the least cosine between a cell and its children."""
    values = []
    for slot in cell.slots:
        # The published code reads cell (0, 0) where a child is missing.
        child = cell.corner if slot is None and settings.linking == "published" else slot
        if child is not None:
            values.append(cosine(cell.feature, child.feature, settings.heads))
    return min(values)


def visit(cell: Cell, settings: Settings, scores: list[float]) -> list[Cell]:
    """Emit the cell if it is finest or alike, otherwise visit its children."""
    if not cell.slots:
        return [cell]
    scores.append(score(cell, settings))
    if settings.spatial_threshold is not None and scores[-1] >= settings.spatial_threshold:
        return [cell]
    children = [child for child in cell.slots if child is not None]
    return [found for child in children for found in visit(child, settings, scores)]


def find_links(cells: list[Cell], heads: int = 1) -> list[Link]:
    """List all pairs of cells of frames t and t + 1 of which one contains the other."""
    frames: dict[int, list[int]] = {}
    for index, cell in enumerate(cells):
        frames.setdefault(cell.box[0], []).append(index)
    links = []
    for t, t_next in pairwise(sorted(frames)):
        for a in frames[t]:
            for b in frames[t_next]:
                if cells[a].contains(cells[b]) or cells[b].contains(cells[a]):
                    links.append((a, b, cosine(cells[a].feature, cells[b].feature, heads)))
    return links


def parents(links: list[Link], num_cells: int, first: bool = False) -> list[int]:
    """Return every later cell's most similar (or first) earlier cell, or the cell itself."""
    candidates: dict[int, list[tuple[int, float]]] = {}
    for a, b, value in links:
        candidates.setdefault(b, []).append((a, value))
    parent = list(range(num_cells))
    for b, choices in candidates.items():
        best = min(choices) if first else max(choices, key=lambda c: (c[1], -c[0]))
        parent[b] = best[0]
    return parent


def forest_roots(parent: list[int]) -> list[int]:
    """Walk from every node to its root."""
    roots = []
    for node in range(len(parent)):
        while parent[node] != node:
            node = parent[node]
        roots.append(node)
    return roots


def connected_components(links: list[tuple[int, int]], num_nodes: int) -> list[int]:
    """Label every node with the smallest node it is connected to, by searching from every node."""
    neighbours: list[list[int]] = [[] for _ in range(num_nodes)]
    for a, b in links:
        neighbours[a].append(b)
        neighbours[b].append(a)
    label = [-1] * num_nodes
    for start in range(num_nodes):
        waiting = [start] if label[start] < 0 else []
        while waiting:
            node = waiting.pop()
            if label[node] < 0:
                label[node] = start
                waiting += neighbours[node]
    return label


def published_groups(links: list[tuple[int, int]], num_nodes: int) -> list[int]:
    """Run the published loop: lower both ends of every link, jump once, stop at a fixed point."""
    rep = list(range(num_nodes))
    while True:
        snapshot = list(rep)
        for a, b in links:
            low = min(snapshot[a], snapshot[b])
            rep[a], rep[b] = min(rep[a], low), min(rep[b], low)
        rep = [rep[i] for i in rep]
        if rep == [rep[i] for i in rep]:
            return rep


def roots(links: list[Link], num_cells: int, settings: Settings) -> list[int]:
    """Turn links into representatives, one per cell."""
    if settings.linking == "directed":
        return forest_roots(parents(links, num_cells, settings.parent == "top_left"))
    pairs = [(a, b) for a, b, _ in links]
    if settings.linking == "components":
        return connected_components(pairs, num_cells)
    return published_groups(pairs, num_cells)


def merge(x: torch.Tensor, frames: int, height: int, width: int, settings: Settings) -> Merged:
    """Merge one video.

    Args:
        x: ``(N, C)`` floating, order t, y, x.
        frames: ``T``.
        height: ``H``.
        width: ``W``.
        settings: see `Settings`.
    """
    dtype = x.dtype if settings.linking == "published" else torch.float64
    video = x.double().reshape(frames, height, width, -1)
    scores: list[float] = []
    cells = [
        found
        for t in range(frames)
        for cell in pyramid(video[t], t, settings, dtype)
        for found in visit(cell, settings, scores)
    ]
    cells.sort(key=lambda cell: cell.box[:3])
    threshold = settings.temporal_threshold
    links = [] if threshold is None else find_links(cells, settings.heads)
    counted = [link for link in links if threshold is not None and link[2] >= threshold]
    root = roots(counted, len(cells), settings)
    members: dict[int, list[int]] = {r: [] for r in sorted(set(root))}
    for i, r in enumerate(root):
        members[r].append(i)
    features = []
    for member in members.values():
        amounts = [cells[i].patches if settings.weighted else 1 for i in member]
        total = sum(
            (cells[i].feature * n for i, n in zip(member, amounts, strict=True)),
            start=torch.zeros_like(cells[0].feature),
        )
        features.append(total / sum(amounts))
    group = [-1] * (frames * height * width)
    for output, member in enumerate(members.values()):
        for i in member:
            t, y0, x0, y1, x1 = cells[i].box
            for y in range(y0, y1):
                for column in range(x0, x1):
                    group[(t * height + y) * width + column] = output
    return Merged(cells, links, scores, root, torch.stack(features), group)


def weighted_sum(
    x: torch.Tensor, group: torch.Tensor, weight: torch.Tensor, num_out: int
) -> torch.Tensor:
    """Add every token, times its weight, to its group: twin of ``MergePlan.apply``.

    Args:
        x: ``(N, C)`` floating.
        group: ``(N,)`` int64 in ``[-1, M)``.
        weight: ``(N,)``.
        num_out: ``M``.

    Returns:
        ``(M, C)`` float64.
    """
    out = torch.zeros(num_out, x.shape[1], dtype=torch.float64)
    for i in range(x.shape[0]):
        if int(group[i]) >= 0 and float(weight[i]) > 0:
            out[int(group[i])] += x[i].double() * float(weight[i])
    return out
