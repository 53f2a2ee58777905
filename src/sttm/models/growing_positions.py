"""The rotary positions of a prompt whose video grows, as the model itself would give them."""

from collections.abc import Mapping
from typing import Any

import torch

from sttm.models import transformers_api as api
from sttm.models.adapter import Adapter, VideoSpan


class GrowingPositions:
    """Positions of a prompt with one video in one run, for any number of time steps.

    Of a video with axes only the first one, time, moves from step to step. It is read off a video
    of one token per step, so that what a step costs does not grow with the frames' tokens.

    Args:
        adapter: the model's family.
        inputs: the model's arguments for a prompt with the first steps, without pixels.
        span: the video's place in it.
        has_axes: whether positions have axes; if not they are places in the sequence.

    Attributes:
        head: tokens in front of the video.
        end: the first token behind the first steps.
    """

    def __init__(
        self,
        adapter: Adapter,
        inputs: Mapping[str, torch.Tensor],
        span: VideoSpan,
        *,
        has_axes: bool,
    ) -> None:
        self._base, self._grid = adapter.base, span.video.grid
        self.head = int(span.index[0])
        length = inputs[api.INPUT_IDS].shape[1]
        self.end = int(span.index[-1]) + 1
        self._tail = length - self.end
        self._inputs = {name: value.cpu() for name, value in inputs.items()} if has_axes else None
        self._length = length
        self._times = torch.empty(0, dtype=torch.long)
        self._cells = torch.empty(1, 0, dtype=torch.long)
        if has_axes:
            first = self.whole(1)[:, self.head : self.head + self._grid.tokens_per_frame]
            self._cells = first

    def whole(self, steps: int) -> torch.Tensor:
        """Return the positions ``(axes, n)`` of the whole prompt; without axes there is one."""
        return self._of(steps, self._grid.height, self._grid.width)

    def video(self, tokens: torch.Tensor, steps: int) -> torch.Tensor:
        """Return the positions ``(axes, n)`` of some video tokens ``(n,)``, counted from 0.

        Args:
            tokens: of the video.
            steps: time steps of the video so far.
        """
        if self._inputs is None:
            return self.head + tokens[None]
        if len(self._times) < steps:
            ahead = max(steps, 2 * len(self._times))  # not anew for every step that comes
            line = self._of(ahead, 1, 1)[0, self.head : self.head + ahead]
            self._times = line - line[0]
        patches = self._grid.tokens_per_frame
        found = self._cells[:, tokens % patches].clone()
        found[0] += self._times[tokens // patches]
        return found

    def check(self, steps: int) -> torch.Tensor:
        """Return `whole`, once it is known to be what `video` gave.

        Raises:
            IncompatibleTransformersError: the model places a longer video otherwise.
        """
        whole, count = self.whole(steps), steps * self._grid.tokens_per_frame
        given = self.video(torch.arange(count), steps)
        if not torch.equal(whole[:, self.head : self.head + count], given):
            raise api.mismatch(
                f"{type(self._base).__name__} that moves more than the time of a longer video",
                "the first axis to move alone",
            )
        return whole

    def _of(self, steps: int, height: int, width: int) -> torch.Tensor:
        count = steps * height * width
        if self._inputs is None:
            return torch.arange(self.head + count + self._tail)[None]
        named = {
            name: self.around(value, count) if value.shape[1:] == (self._length,) else value
            for name, value in self._inputs.items()
        }
        grid: Any = named[api.VIDEO_GRID].clone()
        patches = grid[0, 1:] // grid.new_tensor([self._grid.height, self._grid.width])
        grid[0] = torch.cat([grid.new_tensor([steps]), patches * grid.new_tensor([height, width])])
        return api.rope_index(self._base, {**named, api.VIDEO_GRID: grid})[:, 0]

    def around(self, values: torch.Tensor, count: int) -> torch.Tensor:
        """Return values ``(..., n)`` of each token as they are around ``count`` video tokens."""
        video = values[..., self.head : self.head + 1].expand(*values.shape[:-1], count)
        return torch.cat([values[..., : self.head], video, values[..., self.end :]], -1)
