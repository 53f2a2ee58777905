"""SimpleCluster: spherical k-means over all tokens of a video, with their places turned in."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch

from sttm.budget import check_keep, token_budget
from sttm.grid import VideoGrid
from sttm.methods.base import Method, VideoFeatures
from sttm.methods.checks import check_count, check_number
from sttm.methods.registry import register
from sttm.ops.similarity import unit_rows
from sttm.ops.spherical_kmeans import spherical_kmeans
from sttm.plan import MergePlan


@register
@dataclass(frozen=True)
class SimpleCluster(Method):
    """Cluster all tokens of the video by content and place; each cluster becomes its mean.

    Every token gets a rotary embedding of its (t, y, x), so that far apart tokens are less alike.
    Spherical k-means clusters the embedded tokens; the mean of a cluster is that of its tokens
    without the embedding, and stands at the first of them.

    Args:
        keep: a ratio in (0, 1] as a float, or a count as an integer.
        rounds: the most rounds of k-means, at least 1.
        base: of the rotary frequencies, at least 1: ``base ** -(i / n)`` for the i-th of an axis'
            n channel pairs.

    Raises:
        ConfigError: a value out of range.

    Source: SimpleCluster (2026), from a description: rotary embedding of t, y, x, spherical
        k-means over all tokens, means of the original features, an exact count. Differs: base,
        rounds, first centres, empty clusters, place and layer are ours; they were not to be found.
    """

    name: ClassVar[str] = "simplecluster"
    default_layer: ClassVar[int | None] = 0

    keep: float | int
    rounds: int = 10
    base: float = 10000.0

    def __post_init__(self) -> None:
        check_keep(self.keep)
        check_count("rounds", self.rounds)
        check_number("base", self.base, 1.0, 1e9)

    @torch.no_grad()
    def plan(self, video: VideoFeatures) -> MergePlan:
        """Plan to merge into exactly ``floor(keep * N)`` tokens, at least one.

        Similarity in float32.

        Returns:
            a plan whose ``info`` has ``rounds``.
        """
        tokens, rounds = video.grid.num_tokens, 0
        count, label = token_budget(self.keep, tokens), torch.arange(tokens, device=video.device)
        if count < tokens:
            points = _rotated(unit_rows(video.x), video.grid, self.base)
            label, rounds = spherical_kmeans(points, count, self.rounds)
        return replace(MergePlan.from_labels(label), info={"rounds": rounds})


def _rotated(x: torch.Tensor, grid: VideoGrid, base: float) -> torch.Tensor:
    """Turn the channel pairs of every token by its t, y, x, t, y, x, ...

    Args:
        x: ``(N, C)`` float32; a last single channel stays as it is.
        grid: the shape of the video.
        base: of the frequencies.
    """
    pair = torch.arange(x.shape[1] // 2, device=x.device)
    frequency = base ** -((pair // 3) / max(1, -(-len(pair) // 3)))
    token = torch.arange(grid.num_tokens, device=x.device)
    row, column = token % grid.tokens_per_frame // grid.width, token % grid.width
    place = torch.stack([token // grid.tokens_per_frame, row, column])
    angle = place[pair % 3].T * frequency
    pairs = x[:, : 2 * len(pair)].reshape(len(x), len(pair), 2).contiguous()
    turned = torch.view_as_complex(pairs) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([torch.view_as_real(turned).flatten(1), x[:, 2 * len(pair) :]], dim=1)
