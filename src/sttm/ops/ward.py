"""Ward's clustering on the space-time grid: the merges that cost least distortion.

Joining two groups of ``n`` and ``m`` tokens adds ``n * m / (n + m) * |mean - mean'|**2`` to the
squared error. Groups that touch in space or time join in rounds, whenever each is the other's
cheapest neighbour. All rounds together are a tree of ``N - 1`` merges, which is cut at a price: so
every count from 1 to N is met. A round costs O(N), and there are O(log N) of them.

Source: Ward, "Hierarchical grouping to optimize an objective function" (1963); joining mutual
nearest neighbours: Murtagh, "A survey of recent advances in hierarchical clustering" (1983).

How many pairs a round makes only the device knows. Where asking it would wait (`can_select`), what
is not there is the group with the number ``N``: pairs and edges (N, N) are none, and are sorted out
after a few rounds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from sttm.grid import VideoGrid
from sttm.ops.components import forest_roots
from sttm.ops.similarity import can_select, only_wanted, piece_rows, products

# Wider features are compared by this many signed sums of their channels.
SKETCH_CHANNELS = 128
# Where fewer pairs than this share of the groups are mutual, groups join that are not.
FEW_PAIRS = 1 / 16
_NO_NEIGHBOUR = 2**63 - 1
# Rounds between two reads from a device that has to be waited for.
_ROUNDS_PER_READ = 8


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
        kept, gone = self.pairs
        parent = torch.arange(len(self.cost) + 1, device=made.device)
        parent[gone] = torch.where(made, kept, gone)
        return forest_roots(parent, depth=self.rounds)

    def distortion(self, made: torch.Tensor) -> float:
        """Return the share of the energy that these merges lose."""
        return float(self.cost[made].sum()) / self.energy if self.energy else 0.0


@dataclass
class Groups:
    """Groups of tokens while they join. A group's entries are those of its first token.

    Args:
        mean: ``(N + 1, C)`` float32, the mean features; changed in place. The last is of no group.
        size: ``(N + 1,)`` float64, the tokens of each group; changed in place.
    """

    mean: torch.Tensor
    size: torch.Tensor

    @classmethod
    def of_tokens(cls, x: torch.Tensor, scale: float = 1.0) -> "Groups":
        """Make one group of every row of ``(N, C)``, times ``scale``."""
        mean = torch.zeros(len(x) + 1, x.shape[1], device=x.device)
        mean[:-1].copy_(x).mul_(scale)
        return cls(mean, torch.ones(len(x) + 1, dtype=torch.float64, device=x.device))

    def energy(self) -> float:
        """Return the sum of the squared means: of tokens that have not joined, their energy."""
        squares = [products(rows, rows, 1).sum() for (rows,) in self.pieces(self.mean[:-1])]
        return float(sum(torch.stack(squares).tolist()))

    def cost(self, pairs: torch.Tensor) -> torch.Tensor:
        """Return ``(P,)`` float64: the squared error that joining each of ``(2, P)`` pairs adds."""
        square = [self.size.new_empty(0)]
        for one, other in self.pieces(*pairs):
            difference = self.mean.index_select(0, one).sub_(self.mean.index_select(0, other))
            square.append(products(difference, difference, 1).squeeze(1))
        n, m = self.size[pairs].unbind(0)
        return torch.cat(square) * (n * m / (n + m))

    def join(self, pairs: torch.Tensor) -> None:
        """Join ``(2, P)`` pairs, no group twice but ``N``."""
        size = self.size[pairs]
        share = (size[1] / size.sum(0)).float()
        for kept, gone, part in self.pieces(*pairs, share):
            mean = self.mean.index_select(0, kept)
            step = self.mean.index_select(0, gone).sub_(mean).mul_(part[:, None])
            self.mean.index_copy_(0, kept, mean.add_(step))
        self.size[pairs[0]] = size.sum(0)

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
            groups = Groups.of_tokens(x, scale)
            energy, costs = groups.energy(), []
            for pairs in rounds:
                costs.append(groups.cost(pairs))
                groups.join(pairs)
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
        rounds: the pairs of every round, ``(2, P)`` int64; (N, N) is none.
        costs: what each pair costs, ``(P,)`` float64.
        energy: sum of the squared features.
        size: ``(N + 1,)`` float64, of whatever values.
    """
    highest = torch.zeros_like(size)
    prices = [highest[:0]]
    for pairs, cost in zip(rounds, costs, strict=True):
        prices.append(torch.maximum(cost, highest[pairs].amax(0)))
        highest[pairs[0]] = prices[-1]
    nothing = torch.empty(2, 0, dtype=torch.int64, device=size.device)
    pairs, cost = torch.cat([nothing, *rounds], dim=1), torch.cat([highest[:0], *costs])
    made = (pairs[0] < len(size) - 1).nonzero().squeeze(1)
    return MergeTree(pairs[:, made], cost[made], torch.cat(prices)[made], len(rounds), energy)


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
        the pairs of every round, ``(2, P)`` int64, the smaller number on top, (N, N) where there is
        none; and what each of them costs, ``(P,)`` float64.
    """
    device, tokens = groups.mean.device, grid.num_tokens
    edges, rounds, costs = grid_edges(grid, device), [], []
    ask = can_select(device)
    while edges.shape[1]:
        for _ in range(1 if ask else _ROUNDS_PER_READ):
            pairs, cost, few = choose_pairs(groups, edges, tokens, ask)
            rounds.append(pairs)
            costs.append(cost)
            groups.join(pairs)
            edges = contract(edges, pairs, tokens)
        if not can_select(device):
            edges = edges[:, edges[0] < tokens]
            ask = bool(few)
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
        edges: ``(2, E)`` int64; (N, N) is none.
        pairs: ``(2, P)`` int64; (N, N) is none.
        tokens: ``N``.
    """
    group = torch.arange(tokens + 1, device=edges.device)
    group[pairs[1]] = pairs[0]
    low, high = group[edges].sort(dim=0).values
    base = tokens + 1
    none = base * base - 1  # the code of (N, N), above all others
    edge = only_wanted(low * base + high, low != high, none).sort().values
    edge = only_wanted(edge, is_first(edge), none)
    return torch.stack([edge.div(base, rounding_mode="floor"), edge % base])


def choose_pairs(
    groups: Groups, edges: torch.Tensor, tokens: int, ask: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Choose the pairs of a round: groups each of which is the other's cheapest neighbour.

    Where only few are, as on a background with many specks or in a fade, other pairs join.

    Args:
        groups: the groups. Not modified.
        edges: ``(2, E)`` int64, neighbouring groups; (N, N) is none.
        tokens: ``N``, above every group's number.
        ask: ask the device whether few are. Else nothing joins there, in this and further rounds.

    Returns:
        ``(2, P)`` int64 pairs, the smaller number on top, (N, N) is none; what each costs, ``(P,)``
        float64; whether few are mutual, a bool scalar.
    """
    # Among equal costs scrambled numbers decide, else an even scene would join pair by pair.
    cost = groups.cost(edges)
    key = cost.float().view(torch.int32).long() << 32
    if can_select(key.device):
        number = torch.arange(len(key), device=key.device)
    else:
        number = (edges[0] < tokens).cumsum(0) - 1
    key += _scrambled(number)
    best = torch.full((tokens + 1,), _NO_NEIGHBOUR, device=key.device)
    best.scatter_reduce_(0, edges.flatten(), key.repeat(2), "amin")
    best[tokens] = -1
    first, second = best[edges] == key
    found = first & second
    mutual, cost = only_wanted(edges, found, tokens), only_wanted(cost, found, 0.0)
    count, left = found.sum(), (best[:tokens] < _NO_NEIGHBOUR).sum()
    few = count < FEW_PAIRS * left
    if not ask:
        return torch.where(few, tokens, mutual), cost, few
    if few:
        partner = torch.full_like(best, tokens)
        partner[torch.where(first, edges[0], tokens)] = edges[1]
        partner[torch.where(second, edges[1], tokens)] = edges[0]
        best[tokens] = _NO_NEIGHBOUR
        others = guest_pairs(best, partner, left)
        if (others[0] < tokens).sum() > count:
            return others, groups.cost(others), few
    return mutual, cost, few


def guest_pairs(best: torch.Tensor, partner: torch.Tensor, seed: torch.Tensor) -> torch.Tensor:
    """Pair groups that have the same cheapest neighbour, and this neighbour.

    Half of the groups, drawn by scrambling, are hosts. The others go to their cheapest neighbour if
    it is a host. In the order of their costs, a host and its guests pair up.

    Args:
        best: ``(N + 1,)`` int64, the key of every group's cheapest edge, the largest integer for
            none.
        partner: ``(N + 1,)`` int64, the group at its other end.
        seed: an int64 scalar; another one draws other hosts.

    Returns:
        ``(2, P)`` int64, the smaller number on top; (N, N) is none.
    """
    none, alive = len(best) - 1, best < _NO_NEIGHBOUR
    group = torch.arange(len(best), device=best.device)
    is_host = _scrambled(_scrambled(group + seed) >> 7) >> 31
    goes = (is_host == 0) & (is_host[partner] == 1)
    host = torch.where(alive, torch.where(goes, partner, group), none)
    group = only_wanted(group, alive, none)
    group = group[best[group].argsort(stable=True)]
    group = group[host[group].argsort(stable=True)]
    host = host[group]
    place = torch.arange(len(host), device=host.device)
    place -= torch.where(is_first(host), place, 0).cummax(0).values
    first = (place[:-1] % 2 == 0) & (host[:-1] == host[1:]) & (host[:-1] < none)
    pairs = torch.stack([group[:-1], group[1:]])
    return only_wanted(pairs, first, none).sort(dim=0).values


def is_first(values: torch.Tensor) -> torch.Tensor:
    """Tell which of ``(E,)`` sorted values differ from the one before, as bool."""
    return torch.cat([torch.ones_like(values[:1], dtype=torch.bool), values[1:] != values[:-1]])


def _scrambled(number: torch.Tensor) -> torch.Tensor:
    """Map integers to [0, 2**32), those below 2**32 one to one, in no visible order."""
    return number * 2654435761 & 0xFFFFFFFF  # Knuth's multiplicative hash
