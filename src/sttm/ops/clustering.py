"""Clusters around density peaks (DPC-KNN), exact and deterministic.

A point is a centre if many points are near it and no denser point is: density times separation.
Equal points, which published code tells apart by random noise, count in the order of their index.

Source: Du, Ding, Jia, "Study on density peaks clustering based on k-nearest neighbors and principal
component analysis" (2016); distances divided by the root of the channels as in TCFormer.
"""

from dataclasses import dataclass

import torch

from sttm.ops.selection import descending_rank
from sttm.ops.similarity import piece_rows

# Squared distances below this part of the squared norms are rounding: the points are equal.
_EQUAL = 1e-13


@dataclass(frozen=True)
class Peaks:
    """Clusters of ``n`` points; every tensor may have leading batch axes.

    Args:
        centre: ``(..., count)`` int64, ascending: the points that are cluster centres.
        label: ``(..., n)`` int64 in [0, count): the cluster of every point, in the order of
            ``centre``. A centre is always in its own cluster.
        log_density: ``(..., n)`` float64: minus the mean squared distance to the neighbours.
        separation: ``(..., n)`` float64: the distance to the nearest denser point; for the densest
            one the largest distance of all.
    """

    centre: torch.Tensor
    label: torch.Tensor
    log_density: torch.Tensor
    separation: torch.Tensor


def density_peaks(x: torch.Tensor, neighbours: int, count: int) -> Peaks:
    """Group points around the ``count`` highest products of density and separation.

    Args:
        x: ``(..., n, C)`` floating and finite; leading axes are independent problems. Takes
            ``n * n`` float64 numbers for each of them.
        neighbours: points that the density is measured on, each point itself included.
        count: clusters, in [1, n].

    Returns:
        exactly ``count`` clusters, none empty.
    """
    square = squared_distances(x)
    log_density, separation = density_and_separation(square, neighbours)
    is_centre = peak_rank(log_density, separation) < count
    centre = is_centre.nonzero()[:, -1].reshape(*is_centre.shape[:-1], count)
    order = is_centre.cumsum(dim=-1) - 1
    label = order.gather(-1, nearest_centre(square, is_centre))
    return Peaks(centre, label, log_density, separation)


def squared_distances(x: torch.Tensor) -> torch.Tensor:
    """Return ``(..., n, n)`` float64 squared distances divided by the number of channels.

    Symmetric; exactly 0 for equal points.

    Args:
        x: ``(..., n, C)`` floating and finite.
    """
    # Float64 matters twice: no matmul setting of the user applies, and equal points are told apart
    # from near ones. Distances do not change with the origin; near the mean less is cancelled.
    wide = x.to(torch.float64, copy=True)
    wide -= wide.mean(dim=-2, keepdim=True)
    product = wide @ wide.mT
    norm = product.diagonal(dim1=-2, dim2=-1)
    norms = norm[..., :, None] + norm[..., None, :]
    square = product.mul_(-2.0).add_(norms)
    square = torch.where(square <= _EQUAL * norms, 0.0, square)
    return torch.maximum(square, square.mT) / x.shape[-1]


def density_and_separation(
    square: torch.Tensor, neighbours: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logarithm of every point's density, and its separation.

    Density: ``exp(-mean of d**2 over the nearest points)``, the point itself, at distance 0, being
    one of them. Separation: the least distance to a denser point, for the densest the largest
    distance of all. Of equal points the one with the smaller index counts as denser; of other ones
    that are equally dense, such as two that are each other's nearest, none does.

    Args:
        square: ``(..., n, n)`` squared distances.
        neighbours: points that the density is measured on, each point itself included; at most
            ``n`` count.
    """
    used = min(neighbours, square.shape[-1])
    log_density = -square.topk(used, dim=-1, largest=False).values.mean(dim=-1)
    rank = descending_rank(log_density)
    denser = log_density[..., None, :] > log_density[..., :, None]
    denser |= (square == 0) & (rank[..., None, :] < rank[..., :, None])
    least = torch.where(denser, square, torch.inf).amin(dim=-1)
    separation = torch.minimum(least, square.amax(dim=(-1, -2))[..., None]).sqrt()
    return log_density, separation


def peak_rank(log_density: torch.Tensor, separation: torch.Tensor) -> torch.Tensor:
    """Rank points by density times separation: 0 for the first centre; equal ones by index.

    Args:
        log_density: ``(..., n)`` from `density_and_separation`.
        separation: the same.

    Returns:
        ``(..., n)`` int64.
    """
    # In logarithms: densities themselves underflow on large features.
    return descending_rank(log_density + separation.log())


def nearest_centre(square: torch.Tensor, is_centre: torch.Tensor) -> torch.Tensor:
    """Assign every point to the nearest centre, centres to themselves.

    Args:
        square: ``(..., n, n)`` squared distances.
        is_centre: ``(..., n)`` bool, at least one True in each row.

    Returns:
        ``(..., n)`` int64 in [0, n): the centre as a point; equally near ones: the first.
    """
    point = torch.arange(square.shape[-1], device=square.device)
    nearest = torch.where(is_centre[..., None, :], square, torch.inf).argmin(dim=-1)
    return torch.where(is_centre, point, nearest)


def cluster_centres(x: torch.Tensor, neighbours: int, counts: list[int]) -> torch.Tensor:
    """Cluster several sets of ``n`` points, each into its own number of clusters.

    Args:
        x: ``(sets, n, C)`` floating and finite.
        neighbours: as in `density_peaks`.
        counts: clusters of every set, in [1, n].

    Returns:
        ``(sets, n)`` int64 in [0, n): the point at the centre of every point's cluster.
    """
    sets, n = x.shape[:2]
    count = torch.tensor(counts, device=x.device)[:, None]
    if min(counts) == n:
        return torch.arange(n, device=x.device).repeat(sets, 1)
    step = piece_rows(n * max(x.shape[2], n), x.device)
    result = []
    for points, wanted in zip(torch.split(x, step), torch.split(count, step), strict=True):
        square = squared_distances(points)
        rank = peak_rank(*density_and_separation(square, neighbours))
        result.append(nearest_centre(square, rank < wanted))
    return torch.cat(result)
