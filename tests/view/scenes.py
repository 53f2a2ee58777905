"""Tiny plans to draw."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

import sttm


@dataclass(frozen=True, eq=False)
class Scene:
    """Frames, their merge and their times, in the order that the drawing functions take."""

    frames: npt.NDArray[np.uint8]
    plan: sttm.MergePlan
    grid: sttm.VideoGrid
    timestamps: tuple[float, ...]

    @property
    def arguments(
        self,
    ) -> tuple[npt.NDArray[np.uint8], sttm.MergePlan, sttm.VideoGrid, tuple[float, ...]]:
        return self.frames, self.plan, self.grid, self.timestamps


def plan_of(labels: list[list[list[int]]]) -> tuple[sttm.MergePlan, sttm.VideoGrid]:
    """A plan from the group of every token, ``[t][y][x]``; groups numbered by first use."""
    label = torch.tensor(labels)
    group = label.flatten()
    anchor = torch.stack([(group == m).nonzero()[0, 0] for m in range(int(group.max()) + 1)])
    return sttm.MergePlan.from_groups(group, anchor).check(), sttm.VideoGrid(*label.shape)


def two_steps(frames: int = 2, height: int = 8, width: int = 12, grey: int = 100) -> Scene:
    """Token 0 lives in both steps, 1 and 2 in one each, one input token is dropped."""
    plan, grid = plan_of([[[0, 0, 1]], [[0, 2, -1]]])
    pixels = np.full((frames, height, width, 3), grey, dtype=np.uint8)
    return Scene(pixels, plan, grid, tuple(float(i) for i in range(frames)))
