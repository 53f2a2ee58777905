"""STTM for a video that is still coming: a token is emitted once its group cannot grow any more.

A group of directed links grows from one frame into the next or never again. So after every frame it
is known which groups are closed, and what is emitted does not change.
"""

from dataclasses import dataclass, fields, replace
from typing import Self

import torch

from sttm.errors import ConfigError
from sttm.grid import VideoGrid
from sttm.methods.checks import check_count
from sttm.methods.sttm import STTM
from sttm.ops.components import forest_roots
from sttm.ops.links import links_above, parent_links
from sttm.ops.pyramid import used_sizes
from sttm.ops.quadtree import Pooling, Quadtree, boxes, cut, grow, largest_square
from sttm.ops.same_places import merge_places
from sttm.ops.similarity import needs_rescaling, rescaled
from sttm.plan import MergePlan

__all__ = ["StreamMemory", "StreamTokens", "StreamingSTTM", "merge_same_places"]


@dataclass(frozen=True, eq=False)
class Rows:
    """Tensors of as many rows each: the base of what is cut and joined row by row."""

    def __len__(self) -> int:
        """Count the rows."""
        return len(getattr(self, fields(self)[0].name))

    def __getitem__(self, index: slice | torch.Tensor) -> Self:
        return type(self)(*(getattr(self, field.name)[index] for field in fields(self)))

    @classmethod
    def join(cls, *parts: Self) -> Self:
        """Put rows behind one another."""
        columns = ([getattr(part, field.name) for part in parts] for field in fields(cls))
        return cls(*(torch.cat(column) for column in columns))


@dataclass(frozen=True, eq=False)
class StreamTokens(Rows):
    """Merged tokens in the order of their anchors.

    Args:
        features: ``(M, C)`` means over groups, in the dtype of the input.
        anchor: ``(M,)`` int64, ascending: the token of the stream that each of them stands for,
            counted from the stream's first token.
        share: ``(M,)`` float32, the cells (with ``weighted=True``: patches) in each mean.
        box: ``(M, 5)`` int64: t, y0, x0, y1, x1 of the cell at the anchor, end-exclusive.
        along: ``(M, E)`` means of what was pushed along with the features.
    """

    features: torch.Tensor
    anchor: torch.Tensor
    share: torch.Tensor
    box: torch.Tensor
    along: torch.Tensor

    def merge(self, plan: MergePlan) -> "StreamTokens":
        """Merge these tokens once more.

        Args:
            plan: of as many tokens; its weights are shares of the groups.
        """
        total = torch.zeros(plan.num_out, device=self.share.device)
        total.index_add_(0, plan.group, self.share)
        return StreamTokens(
            plan.apply(self.features),
            plan.gather(self.anchor),
            total,
            plan.gather(self.box),
            _apply(plan, self.along),
        )


class StreamingSTTM:
    """Merges a video that comes in chunks of frames, with a state that does not grow.

    Within a window that no group outgrows, the tokens are those of ``method.plan`` over the whole
    video, whatever the chunks. A smaller window ends groups earlier: the next frame's cells begin
    new ones.

    Args:
        method: thresholds and what belongs to them. ``max_tokens`` is left to `StreamMemory`.
        height: token rows of a frame.
        width: token columns of a frame.
        window: most frames that a group spans, so that no token waits longer; None: any number.
        record: keep what `plan` needs: 12 bytes per token of the stream, which then add up.

    Attributes:
        frames: seen so far.
        num_tokens: emitted so far.

    Raises:
        ConfigError: a method that cannot decide frame by frame, or a number out of range.
    """

    def __init__(
        self,
        method: STTM,
        height: int,
        width: int,
        *,
        window: int | None = 32,
        record: bool = False,
    ) -> None:
        check_streamable(method)
        if window is not None:
            check_count("window", window, 1)
        grid = VideoGrid(1, height, width)
        self.method = method
        self.frames = self.num_tokens = 0
        self._grid = grid
        self._spatial, self._temporal = method.thresholds
        self._window = window if self._temporal is not None else 1
        root_level = -1 if self._spatial is None else method.root_level
        self._sizes = tuple(used_sizes(height, width, root_level))
        self._pooling = Pooling(method.weighted, method.per_head or 1)
        self._last: torch.Tensor | None = None  # (H*W, C) of the last frame
        self._group = self._born = torch.empty(0, dtype=torch.int64)  # (H*W,) of its patches
        self._dtype = torch.float32
        self._open: StreamTokens | None = None  # groups not emitted yet; features are sums
        self._record = list[tuple[torch.Tensor, torch.Tensor]]() if record else None

    @torch.no_grad()
    def push(self, x: torch.Tensor, along: torch.Tensor | None = None) -> StreamTokens:
        """Take the next frames, and return the tokens that are final now.

        A token waits for those in front of it, so that the order is that of the anchors.

        Args:
            x: ``(frames*H*W, C)`` floating and finite, order t, y, x; not modified.
            along: ``(frames*H*W, E)`` in the same dtype, merged by the groups that ``x`` makes,
                e.g. DeepStack features. None: nothing.

        Raises:
            ConfigError: no whole frames, or other channels or another dtype than before.
        """
        self._check(x)
        along = x[:, :0] if along is None else along
        patches = self._grid.tokens_per_frame
        joined = x if self._last is None else torch.cat([self._last, x])
        known = len(joined) - len(x)  # the last frame again, for links over the border
        tree = self._grow(joined)
        cells = cut(tree, self._spatial)
        links = links_above(tree, cells, self._temporal)
        links = parent_links(links, len(joined), self.method.parent)
        parent = torch.where(links.exists, links.earlier, cells.anchor)[cells.anchor]
        token = torch.arange(len(joined), device=x.device)
        offset = self.frames - known // patches
        born = token.div(patches, rounding_mode="floor") + offset
        born[:known] = self._born[:known]
        lead, born = _bounded_roots(cells.anchor, parent, born, patches, offset, self._window)
        new = lead == token
        new[:known] = False
        begun = self.num_tokens + (0 if self._open is None else len(self._open))
        group = torch.where(new, new.cumsum(0) - 1 + begun, -1)
        group[:known] = self._group[:known]
        group = group[lead]
        share = tree.tables.share[cells.level, token % patches]
        share = torch.ones_like(share) if self._pooling.weighted else share
        anchor = new.nonzero().squeeze(1)
        box = boxes(tree, anchor, cells.level[anchor])
        box[:, 0] += offset
        self._add(x, along, group[known:], share[known:], anchor + offset * patches, box)
        self.frames += len(x) // patches
        self._last = x[-patches:].clone()
        self._group, self._born = group[-patches:], born[-patches:]
        return self._emit(self._num_closed())

    def pending(self) -> StreamTokens | None:
        """Return the tokens that are not final yet, as they would be if the stream ended now."""
        return None if self._open is None else self._means(self._open)

    def flush(self) -> StreamTokens | None:
        """Emit all that is left; what comes later begins new groups. None before any frame."""
        self._last = None
        return None if self._open is None else self._emit(len(self._open))

    def plan(self) -> MergePlan:
        """Return the plan of all tokens that were pushed, as if the stream ended now.

        Raises:
            ConfigError: nothing was recorded.
        """
        if not self._record:
            raise ConfigError(
                "plan: got a stream without a record of its tokens, expected "
                "StreamingSTTM(..., record=True) and at least one frame."
            )
        group, share = (torch.cat(column) for column in zip(*self._record, strict=True))
        return MergePlan.from_labels(group, share)

    def _check(self, x: torch.Tensor) -> None:
        patches = self._grid.tokens_per_frame
        frames = x.shape[0] // patches if isinstance(x, torch.Tensor) and x.ndim else 0
        VideoGrid(max(1, frames), self._grid.height, self._grid.width).check(x)
        if x.shape[1] % self._pooling.heads:
            raise ConfigError(
                f"per_head: got {self._pooling.heads} heads for {x.shape[1]} channels, expected a "
                "divisor."
            )
        before = None if self._open is None else self._open.features.shape[1]
        if before not in (None, x.shape[1]):
            raise ConfigError(
                f"x: got {x.shape[1]} channels behind frames of {before}, expected as many. "
                "Begin another stream."
            )

    def _grow(self, x: torch.Tensor) -> Quadtree:
        frames = len(x) // self._grid.tokens_per_frame
        tree = grow(x, frames, self._sizes, self._pooling)
        if needs_rescaling(float(largest_square(tree))):
            return grow(rescaled(x), frames, self._sizes, self._pooling)
        return tree

    def _add(
        self,
        x: torch.Tensor,
        along: torch.Tensor,
        group: torch.Tensor,
        share: torch.Tensor,
        anchor: torch.Tensor,
        box: torch.Tensor,
    ) -> None:
        """Add new tokens to the sums of their groups, which may be new."""
        if self._record is not None:
            self._record.append((group, share))
        self._dtype = x.dtype
        new = StreamTokens(
            x.new_zeros(len(anchor), x.shape[1], dtype=torch.float32),
            anchor,
            torch.zeros(len(anchor), device=x.device),
            box,
            along.new_zeros(len(anchor), along.shape[1], dtype=torch.float32),
        )
        grown = new if self._open is None else StreamTokens.join(self._open, new)
        place = group - self.num_tokens
        plan = MergePlan.from_labels(place, share)
        owner = place[plan.anchor]
        added = torch.zeros_like(grown.share).index_add(0, place, share)
        sums, others = (_apply(plan, each.float()) * added[owner, None] for each in (x, along))
        self._open = StreamTokens(
            grown.features.index_add(0, owner, sums),
            grown.anchor,
            grown.share + added,
            grown.box,
            grown.along.index_add(0, owner, others),
        )

    def _num_closed(self) -> int:
        """Count the groups in front of the first that the next frame can join."""
        assert self._open is not None
        can_grow = self._group
        if self._window is not None:
            can_grow = can_grow[self.frames - self._born < self._window]
        return len(self._open) if not len(can_grow) else int(can_grow.min()) - self.num_tokens

    def _emit(self, count: int) -> StreamTokens:
        assert self._open is not None
        tokens, self._open = self._means(self._open[:count]), self._open[count:]
        self.num_tokens += count
        return tokens

    def _means(self, sums: StreamTokens) -> StreamTokens:
        means = (
            (each / sums.share[:, None]).to(self._dtype) for each in (sums.features, sums.along)
        )
        return replace(sums, **dict(zip(("features", "along"), means, strict=True)))


class StreamMemory:
    """The emitted tokens of a stream, with a cap: the oldest merge further when it is full.

    Args:
        max_tokens: most tokens; None: any number.
        height: token rows of a frame.
        width: token columns of a frame.

    Attributes:
        tokens: that are left, in order; None before the first.

    Raises:
        ConfigError: too few tokens for the frames' cells.
    """

    def __init__(self, max_tokens: int | None, height: int, width: int) -> None:
        # The oldest half must fit into half of itself, with a token for every box.
        least = 4 * sum(h * w for h, w in used_sizes(height, width, 0))
        if max_tokens is not None and max_tokens < least:
            raise ConfigError(
                f"max_tokens: got {max_tokens}, expected at least {least} for frames of "
                f"{height}x{width} tokens: four for every cell of a frame's quadtree."
            )
        self.max_tokens = max_tokens
        self.tokens: StreamTokens | None = None

    def __len__(self) -> int:
        """Count the tokens."""
        return 0 if self.tokens is None else len(self.tokens)

    def add(self, tokens: StreamTokens, reserved: int = 0) -> MergePlan:
        """Append tokens; above the cap, merge the older half to half of it, and again if needed.

        Args:
            tokens: behind all that came before.
            reserved: tokens that must find room, too; at most half of ``max_tokens``.

        Returns:
            what became of the tokens that were there and of the new ones behind them.
        """
        held = tokens if self.tokens is None else StreamTokens.join(self.tokens, tokens)
        plan = MergePlan.identity(len(held), held.anchor.device)
        while self.max_tokens is not None and len(held) + reserved > self.max_tokens:
            half = len(held) // 2
            again = merge_same_places(held, len(held) - (half + 1) // 2, oldest=half)
            held, plan = held.merge(again), plan.compose(again)
        self.tokens = held
        return plan


def merge_same_places(tokens: StreamTokens, keep: int, *, oldest: int | None = None) -> MergePlan:
    """Plan to merge tokens of one box with the next of that box in time, the most similar first.

    They need not be of neighbouring frames: what came back may merge with what was there before.

    Args:
        tokens: ``M`` of them, in order.
        keep: how many to leave.
        oldest: how many of the first tokens may merge; None: all.

    Raises:
        ConfigError: ``keep`` leaves no token for every box, or is less than what may not merge.
    """
    return merge_places(tokens.features, tokens.box, tokens.share, keep, oldest=oldest)


def check_streamable(method: object, *, frames: int | None = None) -> None:
    """Refuse a method that cannot decide before the video has ended.

    Args:
        method: to check.
        frames: how many will come; None: that is not known.

    Raises:
        ConfigError: it is no STTM, or it needs the whole video.
    """
    if not isinstance(method, STTM):
        raise ConfigError(
            f"method: got {method!r} for a stream, expected sttm.STTM with thresholds: it decides "
            "frame by frame, others need the whole video."
        )
    if method.piece is not None and frames is not None:
        return
    for name, wanted in (("keep", None), ("criterion", "cosine"), ("linking", "directed")):
        if getattr(method, name) != wanted:
            raise ConfigError(
                f"{name}: got {getattr(method, name)!r} for a stream, expected {wanted!r}: it "
                "needs the whole video. Use thresholds, and max_tokens for a cap."
            )
    if isinstance(method.max_tokens, float):
        raise ConfigError(
            f"max_tokens: got {method.max_tokens} for a stream, expected a count: how long a "
            "stream will be is not known."
        )


def _apply(plan: MergePlan, x: torch.Tensor) -> torch.Tensor:
    """Apply a plan to ``(N, C)``, of which there may be no column."""
    return plan.apply(x) if x.shape[1] else x.new_zeros(plan.num_out, 0)


def _bounded_roots(
    anchor: torch.Tensor,
    parent: torch.Tensor,
    born: torch.Tensor,
    patches: int,
    offset: int,
    window: int | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Follow parents frame by frame, but into no group that began ``window`` frames before.

    Args:
        anchor: ``(N,)`` int64, the token that stands for each token's cell.
        parent: ``(N,)`` int64, the anchor of that cell's parent, or the cell's own.
        born: ``(N,)`` int64, the frame in which a group without a parent began.
        patches: tokens of a frame.
        offset: number of the first frame.
        window: most frames of a group; None: any number.

    Returns:
        ``(N,)`` the first anchor of every token's group, and ``(N,)`` the frame in which it began.
    """
    if window is None:
        lead = forest_roots(parent, depth=len(parent) // patches)
        return lead, born[lead]
    lead, born = anchor.clone(), born.clone()
    for number in range(len(parent) // patches):
        here = slice(number * patches, (number + 1) * patches)
        above = parent[here]
        fits = offset + number - born[above] < window
        lead[here] = torch.where(fits, lead[above], anchor[here])
        born[here] = torch.where(fits, born[above], offset + number)
    return lead, born
