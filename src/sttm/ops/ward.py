"""Ward's clustering on the space-time grid: the merges that cost least distortion.

Joining two groups of ``n`` and ``m`` tokens adds ``n * m / (n + m) * |mean - mean'|**2`` to the
squared error. Groups that touch in space or time join in rounds, whenever each is the other's
cheapest neighbour. All rounds together are a tree of ``N - 1`` merges, which is cut at a price: so
every count from 1 to N is met. A round costs O(N), and there are O(log N) of them.

Source: Ward, "Hierarchical grouping to optimize an objective function" (1963); joining mutual
nearest neighbours: Murtagh, "A survey of recent advances in hierarchical clustering" (1983).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from sttm.grid import VideoGrid
from sttm.ops.components import forest_roots
from sttm.ops.similarity import piece_rows, products

# Wider features are compared by this many signed sums of their channels.
SKETCH_CHANNELS = 128
# Where fewer pairs than this share of the groups are mutual, groups join that are not.
FEW_PAIRS = 1 / 16
_NO_NEIGHBOUR = 2**63 - 1


@dataclass(frozen=True, eq=False)
class MergeTree:
    """The merges of one video, children before parents. A group is known by its first token.

    Args:
        pairs: ``(2, N - 1)`` int64: the first tokens of the two groups that every merge joins, the
            smaller one, by which the new group is known, on top.
        cost: ``(N - 1,)`` float64, the squared error that the merge adds.
        price: ``(N - 1,)`` float64, the largest cost of this merge and of those that made its two
            groups. So the merges up to any price make groups.
        rounds: how many rounds it took.
        energy: sum of the squared features, in the unit of the costs.
    """

    pairs: torch.Tensor
    cost: torch.Tensor
    price: torch.Tensor
    rounds: int
    energy: float

    def labels(self, made: torch.Tensor) -> torch.Tensor:
        """Return ``(N,)`` int64, the first token of every token's group.

        Args:
            made: ``(N - 1,)`` bool, from `cheapest_merges`.
        """
        kept, gone = self.pairs[:, made].unbind(0)
        parent = torch.arange(len(self.cost) + 1, device=made.device)
        parent[gone] = kept
        return forest_roots(parent, depth=self.rounds)

    def distortion(self, made: torch.Tensor) -> float:
        """Return the share of the energy that these merges lose."""
        return float(self.cost[made].sum()) / self.energy if self.energy else 0.0


@dataclass
class Groups:
    """Groups of tokens while they join. A group's entries are those of its first token.

    Args:
        mean: ``(N, C)`` float32, the mean features; changed in place.
        size: ``(N,)`` float64, the tokens of each group; changed in place.
    """

    mean: torch.Tensor
    size: torch.Tensor

    @classmethod
    def of_tokens(cls, x: torch.Tensor) -> "Groups":
        """Make one group of every row of ``x``, which is used up."""
        return cls(x, torch.ones(len(x), dtype=torch.float64, device=x.device))

    def energy(self) -> float:
        """Return the sum of the squared means: of tokens that have not joined, their energy."""
        return sum(float(products(rows, rows, 1).sum()) for (rows,) in self.pieces(self.mean))

    def cost(self, pairs: torch.Tensor) -> torch.Tensor:
        """Return ``(P,)`` float64: the squared error that joining each of ``(2, P)`` pairs adds."""
        square = [self.size.new_empty(0)]
        for one, other in self.pieces(*pairs):
            difference = self.mean.index_select(0, one).sub_(self.mean.index_select(0, other))
            square.append(products(difference, difference, 1).squeeze(1))
        n, m = self.size[pairs].unbind(0)
        return torch.cat(square) * (n * m / (n + m))

    def join(self, pairs: torch.Tensor) -> torch.Tensor:
        """Join ``(2, P)`` pairs, no group twice; return ``(P,)`` float64: what each costs."""
        cost = self.cost(pairs)
        size = self.size[pairs]
        share = (size[1] / size.sum(0)).float()
        for kept, gone, part in self.pieces(*pairs, share):
            mean = self.mean.index_select(0, kept)
            step = self.mean.index_select(0, gone).sub_(mean).mul_(part[:, None])
            self.mean.index_copy_(0, kept, mean.add_(step))
        self.size[pairs[0]] = size.sum(0)
        return cost

    def pieces(self, *parts: torch.Tensor) -> Iterator[tuple[torch.Tensor, ...]]:
        """Split what belongs to groups or pairs, so that the features of a piece fit a cache."""
        step = piece_rows(self.mean.shape[1], self.mean.device)
        return zip(*(torch.split(part, step) for part in parts), strict=True)


def merge_trees(
    videos: Sequence[tuple[torch.Tensor, VideoGrid]], *, exact: bool = False
) -> list[MergeTree]:
    """Merge every video down to one token; prices are comparable between the videos.

    Args:
        videos: features ``(N, C)``, floating and finite, and the grid of each. Not modified.
        exact: count costs in all channels. Otherwise they are those of `sketch`, in which the pairs
            are chosen either way.
    """
    largest = max(float(torch.stack(torch.aminmax(x)).abs().max()) for x, _ in videos)
    scale = 1.0 / max(largest, torch.finfo(torch.float32).tiny) if largest > 0 else 1.0
    trees = []
    for x, grid in videos:
        groups = Groups.of_tokens(sketch(x, scale))
        energy = groups.energy()
        rounds, costs = join_neighbours(groups, grid)
        if exact and x.shape[1] > SKETCH_CHANNELS:
            groups = Groups.of_tokens(x.float() * scale)
            energy, costs = groups.energy(), [groups.join(pairs) for pairs in rounds]
        trees.append(price_merges(rounds, costs, energy, groups.size))
    return trees


def sketch(x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """Return ``(N, min(C, SKETCH_CHANNELS))`` float32 in which distances are nearly the same.

    Every channel is added, with a fixed sign, to one of the sums. Equal rows stay equal.

    Args:
        x: ``(N, C)`` floating.
        scale: factor of all features.
    """
    if x.shape[1] <= SKETCH_CHANNELS:
        return x.float() * scale
    channel = torch.arange(x.shape[1], device=x.device)
    sign = scale * (1.0 - 2.0 * (_scrambled(channel) >> 31).float())
    total = torch.zeros(x.shape[0], SKETCH_CHANNELS, device=x.device)
    pieces = torch.split(x, SKETCH_CHANNELS, dim=1)
    for piece, signs in zip(pieces, torch.split(sign, SKETCH_CHANNELS), strict=True):
        total[:, : piece.shape[1]] += piece * signs
    return total


def price_merges(
    rounds: Sequence[torch.Tensor], costs: Sequence[torch.Tensor], energy: float, size: torch.Tensor
) -> MergeTree:
    """Build the tree of the merges: each has the largest cost of itself and those below it.

    Args:
        rounds: the pairs of every round, ``(2, P)`` int64.
        costs: what each pair costs, ``(P,)`` float64.
        energy: sum of the squared features.
        size: ``(N,)`` float64, of whatever values.
    """
    highest = torch.zeros_like(size)
    prices = [highest[:0]]
    for pairs, cost in zip(rounds, costs, strict=True):
        prices.append(torch.maximum(cost, highest[pairs].amax(0)))
        highest[pairs[0]] = prices[-1]
    none = torch.empty(2, 0, dtype=torch.int64, device=size.device)
    pairs, cost = torch.cat([none, *rounds], dim=1), torch.cat([highest[:0], *costs])
    return MergeTree(pairs, cost, torch.cat(prices), len(rounds), energy)


def cheapest_merges(trees: Sequence[MergeTree], count: int) -> list[torch.Tensor]:
    """Choose the ``count`` merges of lowest price of all videos; equal ones in their order.

    Args:
        trees: of the videos that share a budget.
        count: from 0 to the number of all merges.

    Returns:
        per video ``(N - 1,)`` bool. With every merge are those that made its two groups.
    """
    order = _by_price(trees)
    made = torch.zeros_like(order, dtype=torch.bool)
    made[order[:count]] = True
    return list(torch.split(made, [len(tree.cost) for tree in trees]))


def merges_within(trees: Sequence[MergeTree], max_distortion: float) -> int:
    """Count the merges, by rising price, that together lose at most a share of the energy.

    Args:
        trees: of the videos that share the limit.
        max_distortion: share of the energy of all these videos.
    """
    cost = torch.cat([tree.cost for tree in trees])[_by_price(trees)]
    limit = max_distortion * sum(tree.energy for tree in trees)
    return int((cost.cumsum(0) <= limit).sum())


def _by_price(trees: Sequence[MergeTree]) -> torch.Tensor:
    return torch.cat([tree.price for tree in trees]).sort(stable=True).indices


def join_neighbours(
    groups: Groups, grid: VideoGrid
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Join groups in rounds until one is left.

    Args:
        groups: one for every token.
        grid: says which tokens touch.

    Returns:
        the pairs of every round, ``(2, P)`` int64, the smaller number on top, and what each of them
        costs, ``(P,)`` float64.
    """
    edges, left = grid_edges(grid, groups.mean.device), grid.num_tokens
    rounds, costs = [], []
    while left > 1:
        pairs = choose_pairs(edges, groups.cost(edges), left, grid.num_tokens)
        rounds.append(pairs)
        costs.append(groups.join(pairs))
        edges = contract(edges, pairs, grid.num_tokens)
        left -= pairs.shape[1]
    return rounds, costs


def grid_edges(grid: VideoGrid, device: torch.device) -> torch.Tensor:
    """Return ``(2, E)`` int64: tokens that touch in time or space, the earlier first; ascending."""
    token = torch.arange(grid.num_tokens, device=device)
    token = token.view(grid.frames, grid.height, grid.width)
    steps = [
        torch.stack([token.narrow(axis, 0, length - 1), token.narrow(axis, 1, length - 1)])
        for axis, length in enumerate(token.shape)
    ]
    edges = torch.cat([step.flatten(1) for step in reversed(steps)], dim=1)
    return edges[:, edges[0].argsort(stable=True)]


def contract(edges: torch.Tensor, pairs: torch.Tensor, tokens: int) -> torch.Tensor:
    """Return the edges between groups after pairs have joined, each once, ascending.

    Args:
        edges: ``(2, E)`` int64.
        pairs: ``(2, P)`` int64.
        tokens: ``N``.
    """
    group = torch.arange(tokens, device=edges.device)
    group[pairs[1]] = pairs[0]
    low, high = group[edges].sort(dim=0).values
    edge = (low * tokens + high)[low != high].sort().values
    edge = torch.unique_consecutive(edge)
    return torch.stack([edge.div(tokens, rounding_mode="floor"), edge % tokens])


def choose_pairs(edges: torch.Tensor, cost: torch.Tensor, left: int, tokens: int) -> torch.Tensor:
    """Choose the pairs of a round: groups each of which is the other's cheapest neighbour.

    Where only few are, as on a background with many specks or in a fade, other pairs join as well.

    Args:
        edges: ``(2, E)`` int64, neighbouring groups.
        cost: ``(E,)`` float64 >= 0.
        left: groups.
        tokens: ``N``, above every group's number.

    Returns:
        ``(2, P)`` int64, the smaller number on top.
    """
    # Among equal costs scrambled numbers decide, else an even scene would join pair by pair.
    key = cost.float().view(torch.int32).long() << 32
    key += _scrambled(torch.arange(len(key), device=key.device))
    best = torch.full((tokens,), _NO_NEIGHBOUR, device=key.device)
    best.scatter_reduce_(0, edges.flatten(), key.repeat(2), "amin")
    first, second = best[edges] == key
    mutual = edges[:, first & second]
    if mutual.shape[1] >= FEW_PAIRS * left:
        return mutual
    partner = torch.empty_like(best)
    partner[edges[0, first]] = edges[1, first]
    partner[edges[1, second]] = edges[0, second]
    others = guest_pairs(best, partner, left)
    return others if others.shape[1] > mutual.shape[1] else mutual


def guest_pairs(best: torch.Tensor, partner: torch.Tensor, seed: int) -> torch.Tensor:
    """Pair groups that have the same cheapest neighbour, and this neighbour.

    Half of the groups, drawn by scrambling, are hosts. The others go to their cheapest neighbour if
    it is a host. In the order of their costs, a host and its guests pair up.

    Args:
        best: ``(N,)`` int64, the key of every group's cheapest edge, the largest integer for none.
        partner: ``(N,)`` int64, the group at its other end.
        seed: another one draws other hosts.

    Returns:
        ``(2, P)`` int64, the smaller number on top.
    """
    group = (best < _NO_NEIGHBOUR).nonzero().squeeze(1)
    is_host = _scrambled(_scrambled(torch.arange(len(best), device=best.device) + seed) >> 7) >> 31
    goes = (is_host[group] == 0) & (is_host[partner[group]] == 1)
    host = torch.where(goes, partner[group], group)
    order = best[group].argsort(stable=True)
    order = order[host[order].argsort(stable=True)]
    group, host = group[order], host[order]
    _, size = torch.unique_consecutive(host, return_counts=True)
    place = torch.arange(len(host), device=host.device)
    place -= (size.cumsum(0) - size).repeat_interleave(size)
    first = ((place[:-1] % 2 == 0) & (host[:-1] == host[1:])).nonzero().squeeze(1)
    return torch.stack([group[first], group[first + 1]]).sort(dim=0).values


def _scrambled(number: torch.Tensor) -> torch.Tensor:
    """Map integers to [0, 2**32), those below 2**32 one to one, in no visible order."""
    return number * 2654435761 & 0xFFFFFFFF  # Knuth's multiplicative hash
