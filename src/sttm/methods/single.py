"""Single granularity: every frame resized to one smaller grid, whatever it shows."""

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch

from sttm.budget import check_keep, token_budget
from sttm.errors import ConfigError
from sttm.grid import VideoGrid
from sttm.methods.base import Method, VideoFeatures
from sttm.methods.checks import check_choice
from sttm.methods.registry import register
from sttm.plan import MergePlan

Mode = Literal["mean", "nearest"]


@register
@dataclass(frozen=True)
class SingleGranularity(Method):
    """Resize every frame's grid to a smaller one: means of equal rectangles, or their corners.

    A side of ``H`` is cut into ``h`` spans; span ``i`` starts at ``floor(i * H / h)``.

    Args:
        size: ``(h, w)``: rows and columns per frame; one integer for as many of both. Either this
            or ``keep``.
        keep: a ratio in (0, 1] as a float, or a count as an integer, met exactly: every frame gets
            as many tokens as every other, or one more, and rows nearly as long as each other.
        mode: ``"mean"`` averages each rectangle; ``"nearest"`` keeps its top-left token and drops
            the others.

    Raises:
        ConfigError: a value out of range, or not exactly one of ``size`` and ``keep``.

    Source: STTM, arXiv 2507.07990, table 5 (13x13, 11x11, 9x9). Differs: rectangles are averaged
        instead of interpolated between; ``keep``.
    """

    name: ClassVar[str] = "single"

    size: tuple[int, int] | int | None = None
    keep: float | int | None = None
    mode: Mode = "mean"

    def __post_init__(self) -> None:
        if (self.size is None) == (self.keep is None):
            raise ConfigError(
                f"single: got size={self.size!r} and keep={self.keep!r}, expected one of them: "
                "size=(9, 9) for a grid, keep=0.3 for a budget."
            )
        if self.keep is not None:
            check_keep(self.keep)
        if isinstance(self.size, int):
            object.__setattr__(self, "size", (self.size, self.size))
        if self.size is not None and not _is_size(self.size):
            raise ConfigError(
                f"size: got {self.size!r}, expected two integers >= 1: (rows, columns)."
            )
        check_choice("mode", self.mode, get_args(Mode))

    @torch.no_grad()
    def plan(self, video: VideoFeatures) -> MergePlan:
        """Plan ``h * w`` tokens per frame, or exactly ``floor(keep * N)`` tokens, at least one.

        The features are not read, except for their number.

        Raises:
            ConfigError: ``size`` is larger than the grid.
        """
        grid = video.grid
        if isinstance(self.size, tuple):
            label = self._labels_of_size(*self.size, grid)
        else:
            assert self.keep is not None
            label = _labels_of_count(token_budget(self.keep, grid.num_tokens), grid)
        plan = MergePlan.from_labels(label.to(video.device))
        return MergePlan.keep(plan.anchor, grid.num_tokens) if self.mode == "nearest" else plan

    def _labels_of_size(self, rows: int, columns: int, grid: VideoGrid) -> torch.Tensor:
        if rows > grid.height or columns > grid.width:
            raise ConfigError(
                f"size: got {rows}x{columns} for {grid}, expected at most "
                f"{grid.height}x{grid.width}: this method only makes grids smaller."
            )
        table = _cells(rows, [columns] * rows, grid)
        return _repeated([table] * grid.frames)


def _is_size(size: object) -> bool:
    if not isinstance(size, tuple) or len(size) != 2:
        return False
    return all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in size)


def _spans(parts: int, length: int) -> torch.Tensor:
    """Return ``(length,)`` int64: which of ``parts`` equal spans each place belongs to."""
    start = torch.arange(parts) * length // parts
    return torch.searchsorted(start, torch.arange(length), right=True) - 1


def _split(total: int, parts: int) -> list[int]:
    """Split ``total`` into ``parts`` numbers that differ by at most one, spread evenly."""
    return [(i + 1) * total // parts - i * total // parts for i in range(parts)]


def _cells(rows: int, columns: list[int], grid: VideoGrid) -> torch.Tensor:
    """Return ``(H*W,)`` int64: the cell of every place, with so many columns in each row."""
    width = grid.width
    spans = torch.stack([_spans(count, width) + row * width for row, count in enumerate(columns)])
    return spans[_spans(rows, grid.height)].flatten()


def _labels_of_count(count: int, grid: VideoGrid) -> torch.Tensor:
    if count < grid.frames:
        return _spans(count, grid.frames).repeat_interleave(grid.tokens_per_frame)
    tables = {cells: _frame_cells(cells, grid) for cells in {*_split(count, grid.frames)}}
    return _repeated([tables[cells] for cells in _split(count, grid.frames)])


def _frame_cells(count: int, grid: VideoGrid) -> torch.Tensor:
    """Return ``(H*W,)`` int64: ``count`` cells of nearly the shape of a token."""
    rows = round((count * grid.height / grid.width) ** 0.5)
    rows = min(max(rows, -(-count // grid.width), 1), grid.height, count)
    return _cells(rows, _split(count, rows), grid)


def _repeated(tables: list[torch.Tensor]) -> torch.Tensor:
    """Return ``(N,)`` labels from the cells of every frame."""
    stacked = torch.stack(tables)
    frame = torch.arange(len(tables))[:, None]
    return (stacked + frame * (int(stacked.max()) + 1)).flatten()
