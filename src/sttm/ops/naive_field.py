"""Literal slow twins of the comparison methods: the oracle of their tests.

Plain loops over tokens in Python floats, written from the papers' formulas and from what their
authors' code does with them, sharing no code with the fast path. A video is a list of frames, a
frame a list of vectors; token ``i`` is place ``i % P`` of frame ``i // P``.
"""

import math
from fractions import Fraction
from itertools import combinations, pairwise

import torch

Vector = list[float]
Frame = list[Vector]


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


def dycoke_kept(frames: list[Frame], each: int) -> list[int]:
    """Return the tokens that DyCoke's first stage keeps, ``each`` of every frame that is reduced.

    Frames come in groups of four. The first stays whole; the second is compared with the first, the
    fourth with the third, the third with the first. The loops of the authors' code end in front of
    the last group's third frame if the frames are a multiple of four: it stays whole. An odd number
    of frames loses its last one.
    """
    total, places = len(frames), len(frames[0])
    against = {1: 0, 2: 0, 3: 2}
    kept = []
    for t in range(total - 1 if total % 2 == 1 and total > 1 else total):
        alone = total % 4 == 0 and t == total - 2
        if t % 4 == 0 or alone:
            kept += [t * places + i for i in range(places)]
            continue
        other = frames[t - t % 4 + against[t % 4]]
        unlike = [-cosine(a, b) for a, b in zip(frames[t], other, strict=True)]
        kept += [t * places + i for i in best(unlike, each)]
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


def vidcom2_kept(
    frames: list[Frame], keep: float | int, temperature: float, channels: int
) -> list[int]:
    """Return the tokens that VidCom2 keeps.

    A ratio gives every frame its rounded share, and what the total misses is settled token by token
    over all frames. A count is reached by raising the ratio until the shares, which grow by one
    where they pass a half, have grown so often.
    """
    every = [token for frame in frames for token in frame]
    spread = [_variance([token[c] for token in every]) for c in range(len(every[0]))]
    steady = best([-v for v in spread], channels)
    frames = [[[token[c] for c in steady] for token in frame] for frame in frames]
    share, redundancy = vidcom2_scores(frames, temperature)
    share = [round(s, 9) for s in share]
    places = len(frames[0])
    if isinstance(keep, float):
        counts = [min(places, round(round(s * keep * places, 9))) for s in share]
        total = max(1, _part_of(len(every), keep))
    else:
        steps = [((k + 0.5) / (s * places), t) for t, s in enumerate(share) for k in range(places)]
        counts = [0] * len(frames)
        for _, t in sorted((round(ratio, 9), t) for ratio, t in steps)[:keep]:
            counts[t] += 1
        total = keep
    kept = [
        t * places + i
        for t in range(len(frames))
        for i in best([-r for r in redundancy[t]], counts[t])
    ]
    flat = [r for scores in redundancy for r in scores]
    while len(kept) > total:
        kept.remove(max(kept, key=lambda i: (flat[i], i)))
    while len(kept) < total:
        kept.append(min((i for i in range(len(flat)) if i not in kept), key=lambda i: (flat[i], i)))
    return sorted(kept)


def _part_of(total: int, ratio: float) -> int:
    """Return ``floor(ratio * total)`` of the decimal number that the ratio is written as."""
    return math.floor(Fraction(str(ratio)) * total)


def _variance(values: list[float]) -> float:
    centre = sum(values) / len(values)
    return sum((v - centre) ** 2 for v in values) / len(values)


def _unit(a: Vector) -> Vector:
    norm = math.sqrt(dot(a, a))
    return [p / norm for p in a] if norm > 0 else a


def _likeness(a: Vector, centre: Vector) -> float:
    square = squared_distance(a, centre)
    return sum(math.exp(-square / (2 * 2.0**k)) for k in range(-3, 2))


def tome_groups(tokens: list[Vector], count: int) -> dict[int, list[int]]:
    """Return the tokens of every group after ToMe's rounds, by the token whose place it has.

    Between rounds the groups are in the order in which the authors' code puts them together: what
    is left of set A by falling similarity, then set B.
    """
    groups = [(i, [i]) for i in range(len(tokens))]
    while len(groups) > count:
        feature = [mean([tokens[i] for i in members]) for _, members in groups]
        pairs = []
        for a in range(0, len(groups), 2):
            similarity, b = max(
                (cosine(feature[a], feature[b]), -b) for b in range(1, len(groups), 2)
            )
            pairs.append((-similarity, a, -b))
        pairs.sort()
        merging = min(len(groups) - count, len(groups) // 2)
        for _, a, b in pairs[:merging]:
            groups[b] = (groups[b][0], groups[b][1] + groups[a][1])
        groups = [groups[a] for _, a, _ in pairs[merging:]] + groups[1::2]
    return {place: sorted(members) for place, members in sorted(groups)}


def density_peaks(points: list[Vector], neighbours: int, count: int) -> list[int]:
    """Return the centre (a point) of every point's DPC-KNN cluster.

    Density is measured on ``neighbours`` points, the point itself, at no distance, included. Of
    equal points the first counts as denser.
    """
    n, channels = len(points), len(points[0])
    square = [[squared_distance(a, b) / channels for b in points] for a in points]
    used = min(neighbours, n)
    near = [sorted(square[i][j] for j in range(n) if j != i)[: used - 1] for i in range(n)]
    density = [math.exp(-sum(distances) / used) for distances in near]
    separation = []
    for i in range(n):
        denser = [
            math.sqrt(square[i][j])
            for j in range(n)
            if density[j] > density[i] or (points[j] == points[i] and j < i)
        ]
        separation.append(min(denser) if denser else math.sqrt(max(map(max, square))))
    centres = best([d * s for d, s in zip(density, separation, strict=True)], count)
    nearest = [min(centres, key=lambda c: (square[i][c], c)) for i in range(n)]
    return [i if i in centres else nearest[i] for i in range(n)]


def lasting_runs(labels: list[int]) -> list[int]:
    """Return the first frames of PruneVid's segments, from the frames' clusters.

    Clusters whose longest run is one frame are dissolved, and runs shorter than their cluster's
    longest. Stretch by stretch from the left, what is dissolved takes the label of the longer of
    the runs beside it, of equally long ones of the left.
    """
    runs: list[list[int]] = []  # frames of each
    for t, label in enumerate(labels):
        if t > 0 and labels[t - 1] == label:
            runs[-1].append(t)
        else:
            runs.append([t])
    label_of: list[int | None] = [None] * len(labels)  # None: dissolved
    for run in runs:
        longest = max(len(other) for other in runs if labels[other[0]] == labels[run[0]])
        if len(run) == longest and longest > 1:
            label_of[run[0] : run[-1] + 1] = [labels[run[0]]] * longest
    for t in range(len(labels)):
        if label_of[t] is None:
            end = next((u for u in range(t, len(labels)) if label_of[u] is not None), len(labels))
            left, right = _first_run(label_of[:t][::-1]), _first_run(label_of[end:])
            joined = label_of[t - 1] if left >= right else label_of[end]
            label_of[t:end] = [joined or 0] * (end - t)
    return [t for t in range(len(labels)) if t == 0 or label_of[t] != label_of[t - 1]]


def _first_run(labels: list[int | None]) -> int:
    return next((n for n, label in enumerate(labels) if label != labels[0]), len(labels))


def prunevid_groups(
    frames: list[Frame], ratios: tuple[float, float], threshold: float, neighbours: int
) -> list[list[int]]:
    """Return the tokens of every group of PruneVid's merging stage.

    Args:
        frames: the video.
        ratios: clusters of frames per frame, clusters of tokens per token of a set.
        threshold: the mean cosine that a still place exceeds.
        neighbours: points that a density is measured on, each point itself included.
    """
    places = len(frames[0])
    clusters = max(1, _part_of(len(frames), ratios[0]))
    starts = lasting_runs(density_peaks([mean(frame) for frame in frames], neighbours, clusters))
    groups = []
    for start, end in zip(starts, [*starts[1:], len(frames)], strict=True):
        span = range(start, end)
        still = [p for p in range(places) if _stillness([frames[t][p] for t in span]) > threshold]
        moving = [p for p in range(places) if p not in still]
        sets = [[([t * places + p for t in span], [frames[t][p] for t in span]) for p in still]]
        sets += [[([t * places + p], [frames[t][p]]) for p in moving] for t in span]
        for members in sets:
            if not members:
                continue
            count = max(1, _part_of(len(members), ratios[1]))
            if len(members) <= 14:
                count = len(members)
            centre = density_peaks([mean(vectors) for _, vectors in members], neighbours, count)
            for own in set(centre):
                inside = [members[i][0] for i in range(len(members)) if centre[i] == own]
                groups.append(sorted(token for tokens in inside for token in tokens))
    return sorted(groups)


def _stillness(vectors: list[Vector]) -> float:
    pairs = [cosine(a, b) for a, b in combinations(vectors, 2)]
    return sum(pairs) / len(pairs) if pairs else 1.0
