"""Bipartite matching of tokens: every token of one set finds its best partner in the other.

Source: ToMe, arXiv 2210.09461, section 3. Differs: in chunks, never the whole matrix.
"""

import torch

from sttm.ops.similarity import most_similar_rows, paired_cosines, unit_rows


def best_partners(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Match every even row with the most similar odd row.

    Cost ``n * n / 4 * C`` multiplications; memory of a chunk of similarities.

    Args:
        x: ``(n, C)`` floating and finite, at least two rows. Not modified.

    Returns:
        per even row the index, in [0, n), of its partner ``(n + 1) // 2`` int64, and their cosine
        in float32.
    """
    unit = unit_rows(x)
    even = torch.arange(0, x.shape[0], 2, device=x.device)
    partner = 2 * most_similar_rows(unit[0::2], unit[1::2]) + 1
    # Once more for the chosen pairs, so that equal rows score exactly 1.
    return partner, paired_cosines(x, even, partner)
