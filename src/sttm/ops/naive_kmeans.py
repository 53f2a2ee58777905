"""Literal slow twin of SimpleCluster: the oracle of its tests.

Plain loops over tokens in Python floats, sharing no code with the fast path.
"""

import math

from sttm.ops.naive_field import Vector, best, dot, mean


def rotated(token: Vector, place: tuple[int, int, int], base: float) -> Vector:
    """Return a token of unit length, with its channel pairs turned by t, y, x, t, y, x, ..."""
    norm = math.sqrt(dot(token, token))
    result = [value / norm if norm > 0 else 0.0 for value in token]
    pairs = len(token) // 2
    for pair in range(pairs):
        angle = place[pair % 3] * base ** -((pair // 3) / math.ceil(pairs / 3))
        a, b = result[2 * pair : 2 * pair + 2]
        result[2 * pair] = a * math.cos(angle) - b * math.sin(angle)
        result[2 * pair + 1] = a * math.sin(angle) + b * math.cos(angle)
    return result


def farthest_first(points: list[Vector], count: int) -> list[int]:
    """Return points that are unlike each other, chosen in steps of a sixteenth of them."""
    chosen, step = [0], math.ceil(count / 16)
    while len(chosen) < count:
        likeness = [max(dot(point, points[c]) for c in chosen) for point in points]
        free = [-math.inf if i in chosen else -value for i, value in enumerate(likeness)]
        chosen += best(free, min(step, count - len(chosen)))
    return chosen


def kmeans_groups(points: list[Vector], count: int, rounds: int) -> list[list[int]]:
    """Return the points of every cluster, in the order of their first points."""
    centres, groups = [points[i] for i in farthest_first(points, count)], []
    for _ in range(rounds):
        likeness = [[dot(point, centre) for centre in centres] for point in points]
        label = [best(row, 1)[0] for row in likeness]
        own = [row[c] for row, c in zip(likeness, label, strict=True)]
        order = sorted(range(len(points)), key=lambda i: (-own[i], i))
        stays = {next(i for i in order if label[i] == c) for c in set(label)}
        leaving = [i for i in reversed(order) if i not in stays]
        empty = [c for c in range(len(centres)) if c not in label]
        for cluster, point in zip(empty, leaving, strict=False):
            label[point] = cluster
        groups = [[i for i in range(len(points)) if label[i] == c] for c in range(len(centres))]
        groups.sort()
        means = [mean([points[i] for i in group]) for group in groups]
        centres = [[p / (math.sqrt(dot(m, m)) or 1.0) for p in m] for m in means]
    return groups
