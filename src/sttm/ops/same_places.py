"""Merge tokens of a video with later ones of the same place, near or far in time."""

import torch

from sttm.errors import ConfigError
from sttm.ops.components import forest_roots
from sttm.ops.selection import stable_topk
from sttm.ops.similarity import paired_cosines
from sttm.plan import MergePlan


def merge_places(
    features: torch.Tensor,
    box: torch.Tensor,
    share: torch.Tensor,
    keep: int,
    *,
    oldest: int | None = None,
) -> MergePlan:
    """Plan to merge tokens of one box with the next of that box in time, the most similar first.

    They need not be of neighbouring frames: what came back may merge with what was there before.

    Args:
        features: ``(M, C)`` of tokens in the order of time.
        box: ``(M, 5)`` int64: t, y0, x0, y1, x1 of each.
        share: ``(M,)`` float32, how much each weighs.
        keep: how many to leave.
        oldest: how many of the first tokens may merge; None: all.

    Raises:
        ConfigError: ``keep`` leaves no token for every box, or is less than what may not merge.
    """
    count = len(features)
    _, place = torch.unique(box[:oldest, 1:], dim=0, return_inverse=True)
    order = place.argsort(stable=True)
    earlier, later = order[:-1], order[1:]
    same = (place[earlier] == place[later]).nonzero().squeeze(1)
    earlier, later = earlier[same], later[same]
    merges = max(0, count - keep)
    if merges > len(same):
        raise ConfigError(
            f"keep: got {keep} of {count} tokens, expected at least {count - len(same)}: one for "
            "every box."
        )
    best = stable_topk(paired_cosines(features, earlier, later), merges)
    parent = torch.arange(count, device=place.device)
    parent[later[best]] = earlier[best]
    return MergePlan.from_anchors(forest_roots(parent, count), share)
