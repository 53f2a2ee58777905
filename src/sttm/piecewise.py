"""STTM with an exact budget for a video that comes piece by piece, and whose length is known."""

import torch

from sttm.budget import token_budget
from sttm.errors import ConfigError
from sttm.grid import VideoGrid
from sttm.methods.sttm import STTM
from sttm.streaming import StreamingSTTM, StreamTokens, merge_same_places

__all__ = ["PiecewiseSTTM", "merger_of"]


class PiecewiseSTTM:
    """Merges a video that comes in chunks as ``STTM(keep=..., piece=...)`` merges the whole of it.

    It holds the tokens that its pieces leave, and the features of less than one piece. Nothing is
    final before the end.

    Args:
        method: with ``keep`` and ``piece``.
        height: token rows of a frame.
        width: token columns of a frame.
        frames: that will come.
    """

    def __init__(self, method: STTM, height: int, width: int, frames: int) -> None:
        self.method = method
        self._grid = VideoGrid(frames, height, width)
        self._pieces: list[StreamTokens] = []  # of complete pieces
        self._rest: torch.Tensor | None = None  # features of the piece that is not
        self._pushed = 0
        self._pending: StreamTokens | None = None

    def push(self, x: torch.Tensor, along: torch.Tensor | None = None) -> StreamTokens | None:
        """Take the next frames ``(frames*H*W, C)``; return the tokens that are final: none.

        Raises:
            ConfigError: something is to be merged along with them.
        """
        if along is not None:
            raise ConfigError(
                "piece: got a model whose vision tower feeds several decoder layers, expected one "
                "whose features enter in one place. Watch the video as a whole."
            )
        assert self.method.piece is not None
        size = self.method.piece * self._grid.tokens_per_frame
        rest = x if self._rest is None else torch.cat([self._rest, x])
        self._pushed += len(x)
        while len(rest) >= size:
            self._pieces = [*self._pieces, self._merged(rest[:size], self._pushed - len(rest))]
            rest = rest[size:]
        self._rest, self._pending = rest.clone(), None
        return None

    def pending(self) -> StreamTokens | None:
        """Return all tokens, as they would be if the video ended now; None before any frame."""
        if self._pending is None and self._rest is not None:
            pieces = self._pieces
            if len(self._rest) or not pieces:
                pieces = [*pieces, self._merged(self._rest, self._pushed - len(self._rest))]
            held = StreamTokens.join(*pieces)
            assert self.method.keep is not None
            keep = token_budget(self.method.keep, self._pushed)
            self._pending = held.merge(merge_same_places(held, keep))
        return self._pending

    def flush(self) -> StreamTokens | None:
        """Return all tokens: they are final at the end."""
        return self.pending()

    def _merged(self, x: torch.Tensor, first: int) -> StreamTokens:
        """Return the tokens of a piece that begins at token ``first``."""
        plan = self.method.plan_piece(x, self._grid, first)
        share, box = plan.info["share"].float(), plan.info["boxes"]
        nothing = x.new_empty(plan.num_out, 0)
        return StreamTokens(plan.apply(x), plan.anchor + first, share, box, nothing)


def merger_of(
    method: STTM, height: int, width: int, window: int | None, frames: int | None
) -> StreamingSTTM | PiecewiseSTTM:
    """Return what merges a video that comes.

    Args:
        method: that `check_streamable` accepts.
        height: token rows of a frame.
        width: token columns of a frame.
        window: see `StreamingSTTM`.
        frames: that will come; None: that is not known.
    """
    if method.piece is not None and frames is not None:
        return PiecewiseSTTM(method, height, width, frames)
    return StreamingSTTM(method, height, width, window=window)
