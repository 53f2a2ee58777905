"""The literal slow twin of `sttm.ops.ward`: plain loops over groups of tokens, in float64.

Written from the definitions; it shares no code with the fast path. Every mean is taken afresh over
the tokens of its group, and all pairs of groups are looked at in every round.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import torch

Place = tuple[int, int, int]
Pair = tuple[int, int]


@dataclass(frozen=True)
class Merge:
    """Two groups that join, known by their first tokens.

    Args:
        pair: the smaller number first.
        cost: the squared error that it adds.
        price: the largest cost of this merge and of those below it.
    """

    pair: Pair
    cost: float
    price: float


@dataclass
class Clustering:
    """Groups of one video, joined in rounds until one is left.

    Args:
        x: ``(N, C)`` float64.
        shape: frames, height, width.
        few_pairs: where fewer pairs than this share of the groups are mutual, others join.
        merges: what was joined, round after round.
        close: the smallest relative distance of two costs whose order decided something. Equal
            costs count as close, too, but for zero: rounding tells them apart.
    """

    x: torch.Tensor
    shape: Place
    few_pairs: float = 1 / 16
    merges: list[Merge] = field(default_factory=list)
    close: float = 1.0

    def __post_init__(self) -> None:
        _, height, width = self.shape
        self.groups = {token: [token] for token in range(len(self.x))}
        self.price = dict.fromkeys(self.groups, 0.0)
        self.places = [
            (token // (height * width), token // width % height, token % width)
            for token in self.groups
        ]
        self.nothing = 1e-20 * max(float(self.x.square().sum()), 1e-300)
        while len(self.groups) > 1:
            for pair in self._choose():
                self._join(pair)

    def cost(self, one: int, other: int) -> float:
        """Return what joining two groups adds: the error of both together minus that of each."""
        first, second = self.groups[one], self.groups[other]
        value = self._error(first + second) - self._error(first) - self._error(second)
        return value if value > self.nothing else 0.0

    def _error(self, tokens: list[int]) -> float:
        rows = self.x[tokens]
        return float((rows - rows.mean(0)).square().sum())

    def _touch(self, one: int, other: int) -> bool:
        return any(
            sum(abs(a - b) for a, b in zip(self.places[i], self.places[j], strict=True)) == 1
            for i in self.groups[one]
            for j in self.groups[other]
        )

    def _choose(self) -> list[Pair]:
        names = sorted(self.groups)
        edges = [(a, b) for a in names for b in names if a < b and self._touch(a, b)]
        costs = [self.cost(a, b) for a, b in edges]
        keys = [(cost, scrambled(number)) for number, cost in enumerate(costs)]
        best: dict[int, tuple[float, int]] = {}
        partner: dict[int, int] = {}
        for name in names:
            own = sorted((key, edge) for key, edge in zip(keys, edges, strict=True) if name in edge)
            best[name] = own[0][0]
            partner[name] = sum(own[0][1]) - name
            self._watch([key[0] for key, _ in own[:2]])
        mutual = [
            edge
            for key, edge in zip(keys, edges, strict=True)
            if best[edge[0]] == key and best[edge[1]] == key
        ]
        if len(mutual) >= self.few_pairs * len(names):
            return mutual
        others = self._guests(best, partner)
        return others if len(others) > len(mutual) else mutual

    def _watch(self, costs: list[float]) -> None:
        for low, high in pairwise(costs):
            if high > 0.0:
                self.close = min(self.close, (high - low) / high)

    def _guests(self, best: dict[int, tuple[float, int]], partner: dict[int, int]) -> list[Pair]:
        """Pair hosts and their guests, the cheapest first."""
        seed = len(best)
        hosts = {name for name in best if scrambled(scrambled(name + seed) >> 7) >> 31}
        home: dict[int, list[int]] = {}
        for name in sorted(best):
            goes = name not in hosts and partner[name] in hosts
            home.setdefault(partner[name] if goes else name, []).append(name)
        pairs = []
        for _, present in sorted(home.items()):
            present.sort(key=lambda name: best[name])
            self._watch([best[name][0] for name in present])
            pairs += [
                (min(a, b), max(a, b)) for a, b in zip(present[::2], present[1::2], strict=False)
            ]
        return pairs

    def _join(self, pair: Pair) -> None:
        kept, gone = pair
        cost = self.cost(kept, gone)
        self.price[kept] = max(cost, self.price[kept], self.price[gone])
        self.merges.append(Merge(pair, cost, self.price[kept]))
        self.groups[kept] = self.groups[kept] + self.groups.pop(gone)

    def labels(self, count: int) -> list[int]:
        """Return the first token of every token's group after the ``count`` cheapest merges."""
        label = list(range(len(self.x)))
        for merge in sorted(self.merges, key=lambda merge: merge.price)[:count]:
            kept, gone = merge.pair
            label = [kept if own == gone else own for own in label]
        return label


def scrambled(number: int) -> int:
    """Map a number to 32 bits in no visible order."""
    return number * 2654435761 % 2**32
