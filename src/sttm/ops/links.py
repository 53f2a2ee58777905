"""The temporal step: which cells of neighbouring frames may merge, and how similar they are.

All cells come from one pyramid. So of two overlapping boxes the larger contains the smaller and its
anchor. Every frame's cell map is read at the anchors of the next and of the previous frame: that
finds every pair once, in O(THW).

Source: STTM, section 3.2.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch

from sttm.ops.quadtree import Cut, Quadtree
from sttm.ops.similarity import wanted_index

Parent = Literal["most_similar", "top_left"]

# Compares pairs of cells of a tree, given by their rows: ``(E,)`` float32; higher is more similar,
# on any finite scale. The last argument, ``(E,)`` bool, tells which pairs are wanted: the value of
# another one means nothing.
Similarity = Callable[[Quadtree, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Links:
    """Pairs of overlapping cells of neighbouring frames, each cell named by its anchor.

    Args:
        earlier: ``(E,)`` int64, the cell of frame t.
        later: ``(E,)`` int64, the cell of frame t + 1.
        similarity: ``(E,)`` float32, the similarity of their features; -inf where there is no link.
    """

    earlier: torch.Tensor
    later: torch.Tensor
    similarity: torch.Tensor

    @cached_property
    def exists(self) -> torch.Tensor:
        """``(E,)`` bool."""
        return self.similarity > -torch.inf

    def only(self, wanted: torch.Tensor) -> "Links":
        """Return these links without those that are not wanted, ``(E,)`` bool."""
        return Links(self.earlier, self.later, torch.where(wanted, self.similarity, -torch.inf))

    def at_least(self, threshold: float | torch.Tensor) -> "Links":
        """Return the links whose similarity is at least ``threshold``."""
        return self.only(self.similarity >= threshold)

    def selected(self) -> "Links":
        """Return the links that exist, without gaps. Waits for the device."""
        index = self.exists.nonzero().squeeze(1)
        return Links(self.earlier[index], self.later[index], self.similarity[index])


def no_links(cut: Cut) -> Links:
    """Return a link of every token to its own anchor that does not exist."""
    token = torch.arange(cut.anchor.shape[0], device=cut.anchor.device)
    never = torch.full(cut.anchor.shape, -torch.inf, device=cut.anchor.device)
    return Links(cut.anchor, token, never)


def find_links(tree: Quadtree, cut: Cut, similarity: Similarity = Quadtree.cosines) -> Links:
    """Find all pairs of overlapping cells of neighbouring frames, and compare them.

    Args:
        tree: the pyramid with features.
        cut: the emitted cells.
        similarity: compares the pairs.

    Returns:
        every pair once.
    """
    frame = tree.patches_per_frame
    before, after = slice(0, -frame), slice(frame, None)
    # Of two cells the finer one's anchor lies in both; of two equal ones the later names the pair.
    later_is_finer = cut.level[before] >= cut.level[after]
    wanted = torch.where(later_is_finer, cut.is_anchor[after], cut.is_anchor[before])
    index = wanted_index(wanted)
    wanted = wanted[index]
    value = similarity(tree, cut.row[before][index], cut.row[after][index], wanted)
    return Links(cut.anchor[before][index], cut.anchor[after][index], value).only(wanted)


def links_above(tree: Quadtree, cut: Cut, threshold: float | None) -> Links:
    """Find the pairs whose cosine is at least ``threshold``; None: there is no temporal step."""
    return no_links(cut) if threshold is None else find_links(tree, cut).at_least(threshold)


def parent_links(links: Links, num_tokens: int, parent: Parent = "most_similar") -> Links:
    """Choose at most one earlier cell for every cell, its parent.

    Args:
        links: the links that may become merges.
        num_tokens: ``N``.
        parent: the most similar earlier cell, the first of equal ones; or the first (top-left) one.

    Returns:
        one entry per token: the link of the cell whose anchor it is; none for other tokens, where
        ``earlier`` means nothing.
    """
    earlier, later, similarity = links.earlier, links.later, links.similarity
    most = torch.full((num_tokens,), -torch.inf, device=later.device)
    first = torch.full((num_tokens,), num_tokens, device=later.device)
    chosen = links.exists
    if parent == "most_similar":
        most.scatter_reduce_(0, later, similarity, "amax")
        chosen = similarity == most[later]
    first.scatter_reduce_(0, later, torch.where(chosen, earlier, num_tokens), "amin")
    if parent == "top_left":
        kept = torch.where(chosen & (earlier == first[later]), similarity, -torch.inf)
        most.scatter_reduce_(0, later, kept, "amax")
    return Links(first, torch.arange(num_tokens, device=later.device), most)
