"""How much of the tokens is left in what a plan makes of them; no model is asked."""

import torch

from sttm.ops.similarity import cosines, most_similar_rows, products, unit_rows
from sttm.plan import MergePlan


def rebuild(x: torch.Tensor, plan: MergePlan) -> torch.Tensor:
    """Give every token back what stands for it: the mean of its group.

    A dropped token is stood for by the output token that is most similar to it.

    Args:
        x: ``(N, C)`` floating and finite.
        plan: of ``N`` tokens.

    Returns:
        ``(N, C)`` float32, or float64 for float64.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    merged, group = plan.apply(wide), plan.group.clone()
    dropped = group < 0
    if bool(dropped.any()):
        group[dropped] = most_similar_rows(unit_rows(wide[dropped]), unit_rows(merged))
    return merged[group]


def reconstruction_error(x: torch.Tensor, rebuilt: torch.Tensor) -> float:
    """Return ``|x - x'| / |x|`` over all tokens; 0 for zero features.

    Args:
        x: ``(N, C)`` floating and finite.
        rebuilt: ``(N, C)``, from `rebuild`.
    """
    wide = x.double()
    norm = float(wide.norm())
    return float((wide - rebuilt).norm()) / norm if norm > 0 else 0.0


def coverage(x: torch.Tensor, rebuilt: torch.Tensor, cosine: float = 0.9) -> float:
    """Return the share of tokens that what stands for them resembles.

    Args:
        x: ``(N, C)`` floating and finite.
        rebuilt: ``(N, C)``, from `rebuild`.
        cosine: the least similarity; that of two zeros counts as 1.
    """
    dot = products(x, rebuilt, 1)
    similarity = cosines(dot, products(x, x, 1), products(rebuilt, rebuilt, 1))
    zeros = (x == 0).all(dim=1) & (rebuilt == 0).all(dim=1)
    return float(((similarity >= cosine) | zeros).double().mean())
