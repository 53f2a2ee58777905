"""Cosine similarity of float32 features, whole or as a mean over heads.

Products are summed elementwise rather than by matrix multiplication: a user's TF32 or bfloat16
matmul setting must not move a decision, and equal vectors must score exactly 1. The sums do not
depend on the order in which a device adds, so that two devices rank the same pairs first.
"""

from collections.abc import Sequence

import torch

# Rows are multiplied in pieces whose temporary stays in a CPU's cache, or is small beside a GPU.
_CPU_PIECE = 2**20
_GPU_PIECE = 2**27
# Similarities held at once: 32 MiB in float32.
_CHUNK = 2**23
# Squared norms outside this range are rescaled, so that their products fit float32.
SAFE_SQUARE = (1e-16, 1e16)


def piece_rows(row_elements: int, device: torch.device) -> int:
    """Return how many rows of ``row_elements`` to handle at once on ``device``."""
    limit = _CPU_PIECE if device.type == "cpu" else _GPU_PIECE
    return max(1, limit // max(1, row_elements))


def can_select(device: torch.device) -> bool:
    """Tell whether the number of entries that a mask selects is known at once.

    On a CPU it is, so that only what is wanted gets computed. Any other device would have to be
    waited for, which costs more than to compute everything and to mask what is not wanted.
    """
    return device.type == "cpu"


def wanted_index(wanted: torch.Tensor) -> torch.Tensor | slice:
    """Return an index of the wanted entries, ``(E,)`` bool; of all where selecting would wait."""
    return wanted.nonzero().squeeze(1) if can_select(wanted.device) else slice(None)


def joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Lay tensors end to end; a single one is returned as it is, not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def only_wanted(values: torch.Tensor, wanted: torch.Tensor, nothing: float) -> torch.Tensor:
    """Return the wanted entries of the last axis; where selecting would wait, all, others replaced.

    Args:
        values: ``(..., E)``.
        wanted: ``(E,)`` bool.
        nothing: stands for an entry that is not wanted.
    """
    if can_select(values.device):
        return values[..., wanted]
    return torch.where(wanted, values, nothing)


def products(a: torch.Tensor, b: torch.Tensor, heads: int) -> torch.Tensor:
    """Return the inner products of paired rows, one per head.

    Args:
        a: ``(..., C)`` floating; ``b`` broadcasts against it.
        b: ``(..., C)``.
        heads: equal parts of the channels; divides ``C``.

    Returns:
        ``(..., heads)`` float64.
    """
    product = a.float() * b.float()
    parts = (heads, product.shape[-1] // heads)
    return _sum_in_fixed_order(product.reshape(*product.shape[:-1], *parts))


def _sum_in_fixed_order(x: torch.Tensor) -> torch.Tensor:
    """Sum the last axis: by halves in float32, which no device can reorder, the rest in float64."""
    for _ in range(3):
        if x.shape[-1] % 2 == 0:
            half = x.shape[-1] // 2
            x = x[..., :half] + x[..., half:]
    return x.sum(dim=-1, dtype=torch.float64)


def cosines(dot: torch.Tensor, square_a: torch.Tensor, square_b: torch.Tensor) -> torch.Tensor:
    """Return cosine similarities, averaged over the heads.

    The root of the product, not the product of roots: it is exact when both squares are equal.

    Args:
        dot: ``(..., heads)`` inner products, from `products`.
        square_a: ``(..., heads)`` squared norms; broadcasts against ``dot``.
        square_b: the same for the other side.

    Returns:
        ``(...)`` float32 in [-1, 1]; a zero vector has cosine 0 with everything.
    """
    scale = (square_a * square_b).sqrt()
    cosine = torch.where(scale > 0, dot / scale, 0.0)
    return cosine.clamp(-1.0, 1.0).mean(dim=-1).float()


def paired_products(
    a: torch.Tensor, rows_a: torch.Tensor, b: torch.Tensor, rows_b: torch.Tensor, heads: int
) -> torch.Tensor:
    """Return inner products of chosen rows without gathering all of them at once.

    Args:
        a: ``(R, C)`` floating.
        rows_a: ``(E,)`` int64 rows of ``a``.
        b: ``(S, C)`` floating.
        rows_b: ``(E,)`` int64 rows of ``b``.
        heads: equal parts of the channels.

    Returns:
        ``(E, heads)`` float64.
    """
    size = piece_rows(a.shape[-1], a.device)
    pieces = [
        products(a.index_select(0, i), b.index_select(0, j), heads)
        for i, j in zip(torch.split(rows_a, size), torch.split(rows_b, size), strict=True)
    ]
    return joined(pieces)


def needs_rescaling(square: torch.Tensor | float) -> bool:
    """Tell whether the largest of these squared norms is outside `SAFE_SQUARE` and not zero."""
    largest = float(square.max()) if isinstance(square, torch.Tensor) else square
    return largest != 0.0 and not SAFE_SQUARE[0] <= largest <= SAFE_SQUARE[1]


def rescaled(x: torch.Tensor) -> torch.Tensor:
    """Return ``x`` in float32 with a largest magnitude of 1; cosines do not change."""
    return (x.double() / x.abs().max().double()).float()


def paired_cosines(x: torch.Tensor, one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Return the cosines of chosen pairs of rows.

    Args:
        x: ``(n, C)`` floating and finite. Not modified.
        one: ``(E,)`` int64 rows of ``x``.
        other: ``(E,)`` int64 rows of ``x``.

    Returns:
        ``(E,)`` float32 in [-1, 1]; exactly 1 for equal rows.
    """
    square = products(x, x, 1)
    if needs_rescaling(square):
        return paired_cosines(rescaled(x), one, other)
    return cosines(paired_products(x, one, x, other, 1), square[one], square[other])


def unit_rows(x: torch.Tensor) -> torch.Tensor:
    """Return the rows of ``(n, C)`` in float32, of length 1; zeros stay zeros."""
    square = products(x, x, 1)
    if needs_rescaling(square):
        return unit_rows(rescaled(x))
    return x.float() * torch.where(square > 0, square.rsqrt(), 0.0).float()


def most_similar_rows(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Find for every row the one of ``other`` with the largest inner product.

    In chunks, never the whole matrix. No matmul setting of the user (TF32, bfloat16) makes it less
    precise.

    Args:
        x: ``(n, C)`` float32.
        other: ``(m, C)`` float32.

    Returns:
        ``(n,)`` int64 in [0, m); of equal products the first.
    """
    safe = x.device.type == "cpu" and torch.get_float32_matmul_precision() == "highest"
    dtype = torch.float32 if safe else torch.float64
    step = max(1, _CHUNK // other.shape[0])
    columns = other.to(dtype).mT.contiguous()
    return torch.cat([(part.to(dtype) @ columns).argmax(1) for part in torch.split(x, step)])
