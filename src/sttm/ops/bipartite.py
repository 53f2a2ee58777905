"""Bipartite matching of tokens: every token of one set finds its best partner in the other.

Source: ToMe, arXiv 2210.09461, section 3. Differs: in chunks, never the whole matrix.
"""

import torch

from sttm.ops.similarity import cosines, needs_rescaling, paired_products, products, rescaled

# Similarities held at once: 32 MiB in float32.
_CHUNK = 2**23


def best_partners(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Match every even row with the most similar odd row.

    Cost ``n * n / 4 * C`` multiplications; memory of a chunk of similarities.

    Args:
        x: ``(n, C)`` floating and finite, at least two rows. Not modified.

    Returns:
        per even row the index, in [0, n), of its partner ``(n + 1) // 2`` int64, and their cosine
        in float32.
    """
    square = products(x, x, 1)
    if needs_rescaling(square):
        return best_partners(rescaled(x))
    scale = torch.where(square > 0, square.rsqrt(), 0.0).float()
    unit = (x.float() * scale).to(_matmul_dtype(x.device))
    one, other = unit[0::2], unit[1::2].mT.contiguous()
    step = max(1, _CHUNK // other.shape[1])
    chosen = torch.cat([(piece @ other).argmax(dim=1) for piece in torch.split(one, step)])
    even, partner = torch.arange(0, x.shape[0], 2, device=x.device), 2 * chosen + 1
    # Once more for the chosen pairs, so that equal rows score exactly 1.
    dot = paired_products(x, even, x, partner, 1)
    return partner, cosines(dot, square[even], square[partner])


def _matmul_dtype(device: torch.device) -> torch.dtype:
    """Return a dtype that no matmul setting of the user (TF32, bfloat16) makes less precise."""
    safe = device.type == "cpu" and torch.get_float32_matmul_precision() == "highest"
    return torch.float32 if safe else torch.float64
