"""Literal slow twins of the comparison methods: the oracle of their tests.

Plain loops over tokens in Python floats, written from the papers' formulas and sharing no code
with the fast path. A video is a list of frames, a frame a list of vectors; token ``i`` is place
``i % P`` of frame ``i // P``.
"""

import math
from dataclasses import dataclass, field
from itertools import combinations, pairwise, product

import torch

Vector = list[float]
Frame = list[Vector]
Place = tuple[int, int, int]


def video(x: torch.Tensor, frames: int) -> list[Frame]:
    """Return ``(N, C)`` features as plain numbers."""
    result: list[Frame] = x.double().reshape(frames, -1, x.shape[1]).tolist()
    return result


def dot(a: Vector, b: Vector) -> float:
    """Return the inner product."""
    return sum(p * q for p, q in zip(a, b, strict=True))


def cosine(a: Vector, b: Vector) -> float:
    """Return the cosine; 0 with a zero vector."""
    scale = math.sqrt(dot(a, a) * dot(b, b))
    return dot(a, b) / scale if scale > 0 else 0.0


def mean(vectors: list[Vector]) -> Vector:
    """Return the mean vector."""
    return [sum(column) / len(vectors) for column in zip(*vectors, strict=True)]


def squared_distance(a: Vector, b: Vector) -> float:
    """Return the squared Euclidean distance."""
    return sum((p - q) ** 2 for p, q in zip(a, b, strict=True))


def best(scores: list[float], count: int) -> list[int]:
    """Return the indices of the highest scores, ascending; equal ones by index."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return sorted(order[:count])


def evs_kept(frames: list[Frame], count: int) -> list[int]:
    """Return the tokens that EVS keeps, for budgets of at least one frame."""
    change = [math.inf] * len(frames[0])
    for before, now in pairwise(frames):
        change += [1 - cosine(a, b) for a, b in zip(before, now, strict=True)]
    return best(change, count)


def dycoke_kept(frames: list[Frame], per_frame: list[int]) -> list[int]:
    """Return the tokens that DyCoke's first stage keeps.

    Args:
        frames: the video.
        per_frame: tokens that each frame keeps; ignored for the first frame of a group.
    """
    places = len(frames[0])
    kept = []
    for t, frame in enumerate(frames):
        first = t - t % 4
        reference = {0: None, 1: first, 2: first, 3: first + 2}[t % 4]
        if reference is None:
            kept += [t * places + i for i in range(places)]
            continue
        unlike = [-cosine(a, b) for a, b in zip(frame, frames[reference], strict=True)]
        kept += [t * places + i for i in best(unlike, per_frame[t])]
    return kept


def vidcom2_scores(
    frames: list[Frame], temperature: float
) -> tuple[list[float], list[list[float]]]:
    """Return VidCom2's relative budgets of the frames, and how redundant every token is."""
    unit = [[_unit(token) for token in frame] for frame in frames]
    everything = mean([token for frame in unit for token in frame])
    to_video = [[_likeness(token, everything) for token in frame] for frame in unit]
    to_frame = [[_likeness(token, mean(frame)) for token in frame] for frame in unit]
    uniqueness = [-sum(scores) / len(scores) for scores in to_video]
    top = max(uniqueness)
    exponent = [math.exp((u - top) / temperature) for u in uniqueness]
    share = [e / sum(exponent) for e in exponent]
    budget = [1 + s - sum(share) / len(share) for s in share]
    both = [
        [a + b for a, b in zip(one, other, strict=True)]
        for one, other in zip(to_video, to_frame, strict=True)
    ]
    return budget, both


def _unit(a: Vector) -> Vector:
    norm = math.sqrt(dot(a, a))
    return [p / norm for p in a] if norm > 0 else a


def _likeness(a: Vector, centre: Vector) -> float:
    square = squared_distance(a, centre)
    return sum(math.exp(-square / (2 * 2.0**k)) for k in range(-3, 2))


def tome_groups(tokens: list[Vector], count: int) -> list[list[int]]:
    """Return the tokens of every group after ToMe's rounds, in the order of their first tokens."""
    groups = [[i] for i in range(len(tokens))]
    while len(groups) > count:
        feature = [mean([tokens[i] for i in group]) for group in groups]
        odd = range(1, len(groups), 2)
        pairs = []
        for a in range(0, len(groups), 2):
            similarity, b = max((cosine(feature[a], feature[b]), -b) for b in odd)
            pairs.append((-similarity, a, -b))
        for _, a, b in sorted(pairs)[: min(len(groups) - count, len(groups) // 2)]:
            groups[b] += groups[a]
            groups[a] = []
        groups = sorted(sorted(group) for group in groups if group)
    return groups


@dataclass(eq=False)
class Cube:
    """A cell of the octree.

    Args:
        level: 0 for a token.
        place: its t, y, x in its level.
        feature: the mean over its children.
        children: cells of the level below, in raster order.
    """

    level: int
    place: Place
    feature: Vector
    children: list["Cube"] = field(default_factory=list)

    @property
    def score(self) -> float:
        """The least cosine with a child; 1 for a token."""
        return min((cosine(self.feature, c.feature) for c in self.children), default=1.0)

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


def octree_roots(x: torch.Tensor, size: Place, levels: int) -> list[Cube]:
    """Build the octree of ``(N, C)`` features up to a number of levels; return the roots."""
    frames, rows, columns = size
    places = list(product(range(frames), range(rows), range(columns)))
    cells = [Cube(0, p, f) for p, f in zip(places, x.double().tolist(), strict=True)]
    for level in range(1, levels):
        parents: dict[Place, list[Cube]] = {}
        for cell in cells:
            parents.setdefault(_above(cell.place, size), []).append(cell)
        cells = [
            Cube(level, place, mean([c.feature for c in inside]), inside)
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


def density_peaks(points: list[Vector], neighbours: int, count: int) -> list[int]:
    """Return the centre (a point) of every point's DPC-KNN cluster."""
    n, channels = len(points), len(points[0])
    square = [[squared_distance(a, b) / channels for b in points] for a in points]
    density = []
    for i in range(n):
        near = sorted(square[i][j] for j in range(n) if j != i)[:neighbours]
        density.append(math.exp(-sum(near) / len(near)) if near else 1.0)
    separation = []
    for i in range(n):
        denser = [
            math.sqrt(square[i][j])
            for j in range(n)
            if density[j] > density[i] or (density[j] == density[i] and j < i)
        ]
        separation.append(min(denser) if denser else math.sqrt(max(square[i])))
    centres = best([d * s for d, s in zip(density, separation, strict=True)], count)
    nearest = [min(centres, key=lambda c: (square[i][c], c)) for i in range(n)]
    return [i if i in centres else nearest[i] for i in range(n)]


def prunevid_groups(
    frames: list[Frame], ratios: tuple[float, float], threshold: float, neighbours: int
) -> list[list[int]]:
    """Return the tokens of every group of PruneVid's merging stage.

    Args:
        frames: the video.
        ratios: clusters of frames per frame, clusters of tokens per token of a set.
        threshold: least mean cosine of a still place.
        neighbours: points that a density is measured on.
    """
    places = len(frames[0])
    clusters = max(1, math.floor(ratios[0] * len(frames)))
    label = density_peaks([mean(frame) for frame in frames], neighbours, clusters)
    starts = [t for t in range(len(frames)) if t == 0 or label[t] != label[t - 1]]
    groups = []
    for start, end in zip(starts, [*starts[1:], len(frames)], strict=True):
        span = range(start, end)
        still = [p for p in range(places) if _stillness([frames[t][p] for t in span]) >= threshold]
        moving = [p for p in range(places) if p not in still]
        sets = [[([t * places + p for t in span], [frames[t][p] for t in span]) for p in still]]
        sets += [[([t * places + p], [frames[t][p]]) for p in moving] for t in span]
        for members in sets:
            if not members:
                continue
            count = max(1, math.floor(ratios[1] * len(members)))
            centre = density_peaks([mean(vectors) for _, vectors in members], neighbours, count)
            for own in set(centre):
                inside = [members[i][0] for i in range(len(members)) if centre[i] == own]
                groups.append(sorted(token for tokens in inside for token in tokens))
    return sorted(groups)


def _stillness(vectors: list[Vector]) -> float:
    pairs = [cosine(a, b) for a, b in combinations(vectors, 2)]
    return sum(pairs) / len(pairs) if pairs else 1.0
