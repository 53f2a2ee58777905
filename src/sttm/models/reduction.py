"""Plans of single videos, put together to a shorter batch of sequences."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from sttm.errors import ConfigError
from sttm.methods.base import Method, VideoFeatures
from sttm.models.adapter import VideoLayout, VideoSpan
from sttm.plan import MergePlan


@dataclass(frozen=True, eq=False)
class BatchReduction:
    """Shortens ``(B, N, ...)`` to ``(B, L, ...)``; shorter rows are padded on the left.

    Args:
        plans: one plan over the whole sequence of each row.
        valid: ``(B, L)`` bool, False for padding; None if there is none.
    """

    plans: tuple[MergePlan, ...]
    valid: torch.Tensor | None

    @classmethod
    def build(cls, plans: Sequence[MergePlan], mask: torch.Tensor | None) -> "BatchReduction":
        """Build it from row plans and the chunk's padding mask, ``(B, N)`` bool or None."""
        length = max(plan.num_out for plan in plans)
        device = plans[0].group.device
        valid = torch.zeros(len(plans), length, dtype=torch.bool, device=device)
        for row, plan in enumerate(plans):
            pad = length - plan.num_out
            valid[row, pad:] = True if mask is None else mask[row].index_select(0, plan.anchor)
        return cls(tuple(plans), None if bool(valid.all()) else valid)

    @property
    def length(self) -> int:
        """Tokens per row after the reduction."""
        return max(plan.num_out for plan in self.plans)

    @property
    def removed(self) -> int:
        """Tokens per row that are gone."""
        return self.plans[0].num_in - self.length

    def reduce(self, x: torch.Tensor) -> torch.Tensor:
        """Merge ``(B, N, ...)`` to ``(B, L, ...)``; padding is zero."""
        return self._stack([plan.apply(row) for plan, row in zip(self.plans, x)])

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        """Pick the anchors of ``(B or 1, N, ...)``: ``(B, L, ...)``; padding is zero."""
        rows = values.expand(len(self.plans), *values.shape[1:])
        return self._stack([plan.gather(row) for plan, row in zip(self.plans, rows)])

    def mark(self, rows: Sequence[Sequence[VideoSpan]]) -> torch.Tensor:
        """Mark the video tokens that are left: ``(B, L)`` bool.

        Args:
            rows: the videos of each row, as they stood before.
        """
        group = self.plans[0].group
        marks = group.new_zeros(len(rows), len(group), dtype=torch.bool)
        for row, spans in enumerate(rows):
            for span in spans:
                marks[row, span.index.to(marks.device)] = True
        return self.gather(marks)

    def restore(self, x: torch.Tensor) -> torch.Tensor:
        """Give every input token its output's row: ``(B, L, ...)`` to ``(B, N, ...)``."""
        rows = []
        for plan, row in zip(self.plans, x):
            kept = row[self.length - plan.num_out :]
            rows.append(kept.index_select(0, plan.group.clamp(min=0)))
            rows[-1][plan.group < 0] = 0
        return torch.stack(rows)

    def _stack(self, rows: Sequence[torch.Tensor]) -> torch.Tensor:
        out = rows[0].new_zeros(len(rows), self.length, *rows[0].shape[1:])
        for row, value in enumerate(rows):
            out[row, self.length - len(value) :] = value
        return out


def video_features(
    x: torch.Tensor,
    video: VideoLayout,
    tower_attention: torch.Tensor | None,
    prompt_attention: torch.Tensor | None,
) -> VideoFeatures:
    """Put together what a method sees of one video: its whole grid.

    The previous frame's token stands in for one that the model itself dropped as its repeat;
    nothing attends to it.

    Args:
        x: ``(num_present, C)`` features of the tokens that are there.
        video: where they belong.
        tower_attention: ``(num_present,)``, or None.
        prompt_attention: ``(num_present,)``, or None.
    """
    present = video.gaps
    if present is not None:
        x = _fill(x, present.to(x.device), video)
        tower_attention = _spread(tower_attention, present)
        prompt_attention = _spread(prompt_attention, present)
    return VideoFeatures(x, video.grid, tower_attention, prompt_attention)


def plan_videos(
    method: Method, videos: Sequence[VideoFeatures], layouts: Sequence[VideoLayout]
) -> list[MergePlan]:
    """Plan the videos of one call.

    Videos of which the model itself dropped some tokens are planned whole; their plans are then
    limited to the tokens that are there.

    Args:
        method: the reduction method.
        videos: whole.
        layouts: of the same videos.

    Raises:
        ConfigError: a plan does not fit its video.
    """
    plans = method.plan_batch(videos)
    if len(plans) != len(videos):
        raise ConfigError(
            f"{type(method).__name__}: got {len(plans)} plans, expected one for each of "
            f"{len(videos)} videos."
        )
    limited = []
    for plan, layout in zip(plans, layouts, strict=True):
        count = layout.grid.num_tokens
        if not isinstance(plan, MergePlan) or plan.num_in != count:
            got = f"of {plan.num_in} tokens" if isinstance(plan, MergePlan) else repr(type(plan))
            raise ConfigError(
                f"{type(method).__name__}.plan: got a plan {got} for {layout}, expected "
                f"a MergePlan of {count} tokens."
            )
        gaps = layout.gaps
        checked = plan.check()
        limited.append(checked if gaps is None else _restrict(checked, gaps.to(plan.group.device)))
    return limited


def sequence_plan(length: int, parts: Sequence[tuple[torch.Tensor, MergePlan]]) -> MergePlan:
    """Extend the plans of videos at given places to a plan of the whole sequence.

    Args:
        length: tokens of the sequence, ``N``; those outside the videos are kept.
        parts: places ``(n,)`` and plan of each video.
    """
    device = parts[0][0].device if parts else torch.device("cpu")
    keep = torch.ones(length, dtype=torch.bool, device=device)
    for index, plan in parts:
        keep[index] = False
        keep[index[plan.anchor]] = True
    group = keep.cumsum(0) - 1
    weight = torch.ones(length, device=device)
    place = group.clone()
    for index, plan in parts:
        output = place[index[plan.anchor]]
        group[index] = torch.where(plan.group >= 0, output[plan.group.clamp(min=0)], -1)
        weight[index] = plan.weight
    whole = MergePlan(group=group, weight=weight, anchor=keep.nonzero().squeeze(1))
    return replace(whole, accumulate=parts[0][1].accumulate) if parts else whole


def _fill(x: torch.Tensor, present: torch.Tensor, video: VideoLayout) -> torch.Tensor:
    """Stand the previous frame's token in for each one that the model dropped as its repeat."""
    full = x.new_zeros(video.grid.num_tokens, x.shape[1])
    full[present] = x
    frames = full.view(video.grid.frames, video.grid.tokens_per_frame, -1)
    missing = ~present.view(video.grid.frames, -1, 1)
    for before, here, gone in zip(frames, frames[1:], missing[1:]):
        here.copy_(torch.where(gone, before, here))
    return full


def _spread(value: torch.Tensor | None, present: torch.Tensor) -> torch.Tensor | None:
    """Lay values of the tokens that are there out on the whole grid; zero elsewhere."""
    if value is None:
        return None
    full = value.new_zeros(len(present))
    full[present.to(value.device)] = value
    return full


def _restrict(plan: MergePlan, present: torch.Tensor) -> MergePlan:
    """Limit a plan to the tokens that are there; a group's anchor is its first one of those."""
    group = plan.group[present]
    kept = (group >= 0).nonzero().squeeze(1)
    used, labels = torch.unique(group[kept], return_inverse=True)
    first = torch.full((len(used),), len(group), device=group.device)
    first.scatter_reduce_(0, labels, kept, "amin")
    anchor, order = first.sort()
    relabelled = torch.full_like(group, -1)
    relabelled[kept] = order.argsort()[labels]
    limited = MergePlan.from_groups(relabelled, anchor, plan.weight[present])
    return replace(limited, info=plan.info, accumulate=plan.accumulate)


def reassigned_positions(
    positions: torch.Tensor, plans: Sequence[MergePlan], rows: Sequence[Sequence[VideoSpan]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Renumber what is left: video tokens consecutively, and the text after them without a gap.

    Args:
        positions: ``(A, B, N)`` original ids, ``A`` axes.
        plans: the row plans.
        rows: the videos of each row.

    Returns:
        new ids ``(A, B, L)`` and ``(B, 1)``, how far later text moves (not above 0).
    """
    length = max(plan.num_out for plan in plans)
    new = positions.new_zeros(*positions.shape[:2], length)
    moved = positions.new_zeros(len(plans), 1)
    for row, (plan, spans) in enumerate(zip(plans, rows)):
        ids, delta = _renumber_row(positions[:, row], plan, spans)
        new[:, row, length - plan.num_out :] = ids
        moved[row] = delta
    return new, moved


def _renumber_row(
    ids: torch.Tensor, plan: MergePlan, spans: Sequence[VideoSpan]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Renumber one row: ``(A, N)`` to ``(A, M)`` and the shift of what follows.

    Video tokens that stand together are a run. In a literal loop over the row::

        moved = 0
        for each token:
            if it begins a run:     start = least of its ids over the run's axes, plus moved
            if it is in a run:      its new id is start + how many of the run were kept before it
            if it is behind a run:  moved = start + kept tokens of the run - its own id
            if it is in no run:     its new id is its id + moved

    e.g. ids 0 1 [2 3 4 5] 6 7 with 3 and 4 dropped become 0 1 [2 3] 4 5, and the shift is -2.
    """
    if not spans:
        return ids.index_select(1, plan.anchor), ids.new_zeros(())
    places = torch.cat([span.index for span in spans]).to(ids.device)
    breaks, edge = places.diff() > 1, places.new_ones(1, dtype=torch.bool)
    first, last = places[torch.cat([edge, breaks])], places[torch.cat([breaks, edge])]
    start = ids[:, first].amin(0)
    # The id of the token behind each run; behind the end of the row, the one that would come.
    behind = torch.cat([ids[0], ids.new_zeros(1)])[last + 1]
    ending = last[-1] + 1 == ids.shape[1]
    behind[-1] = torch.where(ending, ids[:, first[-1] :].max() + 1, behind[-1])
    keep = torch.zeros(ids.shape[1], dtype=torch.long, device=ids.device)
    keep[plan.anchor] = 1
    before = keep.cumsum(0) - keep  # kept tokens in front of each
    count = before[last] + keep[last] - before[first]
    moved = torch.cat([ids.new_zeros(1), (start + count - behind).cumsum(0)])
    run = torch.searchsorted(last, plan.anchor)  # the run that a kept token is in or in front of
    inside = run.clamp(max=len(last) - 1)
    in_run = (run < len(last)) & (plan.anchor >= first[inside])
    rank = start[inside] + before[plan.anchor] - before[first[inside]]
    new = torch.where(in_run, rank, ids[:, plan.anchor]) + moved[run]
    return new, moved[-1]
