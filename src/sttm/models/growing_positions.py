"""The layout of a prompt whose video grows, and the rotary positions that the model gives it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sttm.models import transformers_api as api
from sttm.models.adapter import Adapter, VideoSpan


@dataclass(frozen=True, eq=False)
class StepRows:
    """The tokens of some time steps, one row each, in the order of the prompt.

    Args:
        positions: ``(axes, n)`` int64; without axes there is one.
        place: ``(n,)`` int64, places in the sequence.
        step: ``(n,)`` int64.
        inside: ``(n,)`` int64, places in the step's block; below 0 for the text in front of it.
        is_video: ``(n,)`` bool, False for text and for newline tokens.
    """

    positions: torch.Tensor
    place: torch.Tensor
    step: torch.Tensor
    inside: torch.Tensor
    is_video: torch.Tensor


class GrowingPositions:
    """Positions of a prompt with one video, for any number of time steps.

    A step is a block: its video tokens, and newline tokens between or behind their rows. Text may
    stand in front of each block, another one each time; that of the first belongs to the head.
    Every block is placed like the first one, but further on, and text counts up behind the block
    before it. Where a video has axes and no text, only the first axis, time, moves. It is read off
    a video of one token per step, so that what a step costs does not grow with the frames' tokens.

    Args:
        adapter: the model's family.
        inputs: the model's arguments for a prompt with the first steps, without pixels.
        span: the video's place in it.
        block: tokens of a block.
        has_axes: whether positions have axes; if not they are places in the sequence.

    Attributes:
        head: tokens in front of the video.
        in_front: ``(axes, head)`` int64, their positions.
        trailing: newline tokens behind the last video token of a block.
        texts: ``(n,)`` int64 ids in front of each block; none in front of the first.
    """

    def __init__(
        self,
        adapter: Adapter,
        inputs: Mapping[str, torch.Tensor],
        span: VideoSpan,
        block: int,
        *,
        has_axes: bool,
    ) -> None:
        self._base, self._grid, self._has_axes = adapter.base, span.video.grid, has_axes
        patches = self._grid.tokens_per_frame
        self.head, self._block = int(span.index[0]), block
        self._inside = span.index[:patches] - self.head
        self.trailing = block - 1 - int(self._inside[-1])
        start, self._others = _per_token(inputs, 0, self.head + block)
        self._start, self._times = start, torch.empty(0, dtype=torch.long)
        self.texts: tuple[torch.Tensor, ...] = (span.index[:0],)
        self._tail = _per_token(inputs, int(span.index[-patches]) + block)[0]
        first = self.whole()
        self.in_front = first[:, : self.head]
        self._first = first[:, self.head : self.head + block]
        self.texts = ()
        self._sizes = self._moved = torch.empty(0, dtype=torch.long)

    def push(
        self, texts: Sequence[torch.Tensor], inputs: Mapping[str, torch.Tensor], end: int
    ) -> StepRows:
        """Append steps, and return their rows.

        Args:
            texts: ids in front of the block of each.
            inputs: of a prompt with these steps; what is behind them is behind all steps now.
            end: the first token behind them there.
        """
        before = len(self.texts)
        self.texts, self._tail = (*self.texts, *texts), _per_token(inputs, end)[0]
        new = torch.tensor([len(text) for text in texts])
        self._sizes = torch.cat([self._sizes, new])
        count = self._sizes.cumsum(0)
        if not self._has_axes or bool(count[-1]):
            extent = self._first.max() - self._first.min() + 1
            moved = count + extent * torch.arange(len(count))
            self._moved = moved.expand(len(self._first), -1)
        else:
            self._moved = self._line(len(count))
        return self.rows(before)

    def rows(self, start: int = 0) -> StepRows:
        """Return the rows of all steps from ``start`` on."""
        lengths = self._sizes[start:] + self._block
        step = torch.arange(len(lengths)).repeat_interleave(lengths)
        end = lengths.cumsum(0)
        inside = torch.arange(len(step)) - (end - self._block)[step]
        block = self._first[:, inside.clamp(min=0)]
        base = torch.where(inside < 0, self._first.min() + inside, block)
        first = int(self._sizes[:start].sum()) + start * self._block
        return StepRows(
            positions=base + self._moved[:, start + step],
            place=self.head + first + torch.arange(len(step)),
            step=start + step,
            inside=inside,
            is_video=torch.isin(inside, self._inside),
        )

    def video(self, tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the positions ``(axes, n)`` and the places ``(n,)`` of video tokens.

        Args:
            tokens: ``(n,)`` int64, counted from the video's first.
        """
        patches = self._grid.tokens_per_frame
        step, inside = tokens // patches, self._inside[tokens % patches]
        place = self.head + self._sizes.cumsum(0)[step] + step * self._block + inside
        return self._first[:, inside] + self._moved[:, step], place

    def check(self) -> torch.Tensor:
        """Return `whole`, once it is known to be what `rows` gave.

        Raises:
            IncompatibleTransformersError: the model places a longer video otherwise.
        """
        whole, given = self.whole(), self.rows().positions
        if not torch.equal(whole[:, self.head : self.head + given.shape[1]], given):
            moved = "time of a longer video" if not int(self._sizes.sum()) else "start of each step"
            raise api.mismatch(
                f"{type(self._base).__name__} that moves more than the {moved}", "it to move alone"
            )
        return whole

    def whole(self) -> torch.Tensor:
        """Return the positions ``(axes, n)`` of the whole prompt, as the model gives them."""
        named = {name: self._around(name, tail) for name, tail in self._tail.items()}
        ids = named[api.INPUT_IDS] = self.ids(self._tail[api.INPUT_IDS])
        if not self._has_axes:
            return torch.arange(ids.shape[1])[None]
        return self._rope(named, len(self.texts), self._grid.height, self._grid.width)

    def ids(self, tail: torch.Tensor, gone: torch.Tensor | None = None) -> torch.Tensor:
        """Return the ids ``(..., n)`` of all steps, of what is in front and of what is behind.

        Args:
            tail: ``(..., m)`` of what is behind.
            gone: ``(steps,)`` bool, the steps that only video tokens are left of; None: none.
        """
        found, inside = self._around(api.INPUT_IDS, tail), self._insides()
        found[..., self.head : self.head + len(inside)][..., inside < 0] = torch.cat(self.texts)
        if gone is None or not bool(gone.any()):
            return found
        rows, kept = self.rows(), torch.ones(found.shape[-1], dtype=torch.bool)
        kept[rows.place] = rows.is_video | ~gone[rows.step]
        return found[..., kept]

    def _around(self, name: str, tail: torch.Tensor) -> torch.Tensor:
        """Return an input of each token; text between steps takes the value of that in front."""
        inside, start = self._insides(), self._start[name]
        start = start[0] if tail.ndim == 1 else start
        body = start[..., torch.where(inside < 0, self.head - 1, self.head + inside)]
        return torch.cat([start[..., : self.head], body, tail], -1)

    def _insides(self) -> torch.Tensor:
        return torch.cat([torch.arange(-len(text), self._block) for text in self.texts])

    def _line(self, steps: int) -> torch.Tensor:
        """Return how far each step of a video without text moves, ``(axes, steps)``."""
        if len(self._times) < steps:
            ahead = max(steps, 2 * len(self._times))  # not anew for every step that comes
            token = torch.cat([torch.arange(self.head), torch.full((ahead,), self.head)])
            named = {name: value[:, token] for name, value in self._start.items()}
            found = self._rope(named, ahead, 1, 1)[0, self.head :]
            self._times = found - found[0]
        moved = torch.zeros(len(self._first), steps, dtype=torch.long)
        moved[0] = self._times[:steps]
        return moved

    def _rope(
        self, named: Mapping[str, torch.Tensor], steps: int, height: int, width: int
    ) -> torch.Tensor:
        grid: Any = self._others[api.VIDEO_GRID].clone()
        patches = grid[0, 1:] // grid.new_tensor([self._grid.height, self._grid.width])
        grid[0] = torch.cat([grid.new_tensor([steps]), patches * grid.new_tensor([height, width])])
        return api.rope_index(self._base, {**self._others, **named, api.VIDEO_GRID: grid})[:, 0]


Inputs = dict[str, torch.Tensor]


def _per_token(
    inputs: Mapping[str, torch.Tensor], start: int, end: int | None = None
) -> tuple[Inputs, Inputs]:
    """Split inputs into those with a value per token, of which a part is taken, and the others."""
    length = inputs[api.INPUT_IDS].shape[1]
    named = {name: value.cpu() for name, value in inputs.items()}
    own = {name: value for name, value in named.items() if value.shape[1:] == (length,)}
    others = {name: value for name, value in named.items() if name not in own}
    return {name: value[:, start:end] for name, value in own.items()}, others
