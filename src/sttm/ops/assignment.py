"""Assignment of every token to the most similar of some chosen tokens, and even splits."""

from decimal import Decimal

import torch

from sttm.ops.selection import evenly_spaced
from sttm.ops.similarity import piece_rows


def most_similar(x: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Find, for every row, the target of the highest cosine.

    Args:
        x: ``(n, C)`` floating and finite.
        targets: ``(m, C)`` floating and finite, ``m >= 1``.

    Returns:
        ``(n,)`` int64 in [0, m); among equals the first. A zero vector goes to the first.
    """
    # Float64: no matmul setting of the user (TF32, bfloat16) moves a decision.
    other = _unit(targets).mT.contiguous()
    place = torch.arange(other.shape[1], device=x.device)
    found = []
    for piece in torch.split(x, piece_rows(max(x.shape[1], other.shape[1]), x.device)):
        cosine = _unit(piece) @ other
        best = cosine.amax(dim=1, keepdim=True)
        # Rounding must not tell equal targets apart.
        found.append(torch.where(cosine >= best - 1e-12, place, other.shape[1]).amin(dim=1))
    return torch.cat(found)


def _unit(x: torch.Tensor) -> torch.Tensor:
    wide = x.double()
    norm = wide.norm(dim=1, keepdim=True)
    return torch.where(norm > 0, wide / norm, 0.0)


def even_counts(total: int, parts: int, device: torch.device | str = "cpu") -> torch.Tensor:
    """Split ``total`` into ``(parts,)`` int64 that differ by at most 1, larger ones spaced out."""
    counts = torch.full((parts,), total // parts, device=device)
    counts[evenly_spaced(total % parts, parts, device)] += 1
    return counts


def part_of(total: int, ratio: float) -> int:
    """Return ``floor(ratio * total)`` in decimal arithmetic: 0.29 of 100 is 29, not 28."""
    return int(Decimal(str(float(ratio))) * total)
