"""Literal slow twin of `sttm.ops.same_places`: one token after the other, in float64."""

from collections.abc import Sequence

import torch


def merge_places(
    features: torch.Tensor, boxes: Sequence[Sequence[int]], keep: int, oldest: int | None = None
) -> list[list[int]]:
    """Merge each token with the next of its box in time, the most similar pairs first.

    Args:
        features: ``(M, C)`` of tokens in the order of time.
        boxes: t, y0, x0, y1, x1 of each.
        keep: how many tokens to leave, at least one for every box.
        oldest: how many of the first tokens may merge; None: all.

    Returns:
        the tokens of each group, ascending, the groups in the order of their first tokens.
    """
    x = features.double()
    pairs = []  # cosine, place of the box, earlier token, later token
    places = sorted({tuple(box[1:]) for box in boxes[:oldest]})
    for token, box in enumerate(boxes[:oldest]):
        following = [t for t in range(token + 1, len(boxes[:oldest])) if boxes[t][1:] == box[1:]]
        if following:
            cosine = float(torch.nn.functional.cosine_similarity(x[token], x[following[0]], dim=0))
            pairs.append((-cosine, places.index(tuple(box[1:])), token, following[0]))
    groups = {token: [token] for token in range(len(boxes))}
    for _, _, earlier, later in sorted(pairs)[: len(boxes) - keep]:
        joined = sorted({*groups[earlier], *groups[later]})
        for token in joined:
            groups[token] = joined
    return [group for token, group in groups.items() if group[0] == token]
