"""A merge as data: which output token every input token goes to, and with which weight."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import torch
from torch.nn.functional import embedding_bag

from sttm.errors import ConfigError
from sttm.kernels import use_kernels

__all__ = ["MergePlan"]

# Half precision rows are summed in float32 pieces of at most this many elements.
_PIECE = 2**27


@dataclass(frozen=True, eq=False)
class MergePlan:
    """Turns ``N`` input tokens into ``M`` output tokens; a linear map with one nonzero per input.

    Decided once from the features, then applied to anything that has one row per token.

    Args:
        group: ``(N,)`` int64, the output token of every input token; -1 drops the input token.
        weight: ``(N,)`` float32, the share of every input token; sums to 1 per group, 0 if dropped.
        anchor: ``(M,)`` int64, ascending: the input token that each output token stands for
            (its position, its place in the sequence).
        info: what the method wants to tell, e.g. the thresholds it used.
        accumulate: sum in float32 (default) or in the dtype of the input (published code).
    """

    group: torch.Tensor
    weight: torch.Tensor
    anchor: torch.Tensor
    info: Mapping[str, Any] = field(default_factory=dict, repr=False)
    accumulate: Literal["float32", "input"] = "float32"

    def __post_init__(self) -> None:
        _check_axes({"group": self.group, "weight": self.weight, "anchor": self.anchor})
        if self.weight.shape != self.group.shape:
            raise ConfigError(
                f"MergePlan: got {self.weight.shape[0]} weights for {self.group.shape[0]} tokens, "
                "expected one per token (0 for a dropped one)."
            )

    def check(self) -> "MergePlan":
        """Return this plan if it keeps every promise.

        ``from_groups`` and every attached forward pass call it: below 1 ms for 25,088 tokens on
        one core, beside the 250 ms that planning them takes.

        Raises:
            ConfigError: a group out of range or without its anchor, anchors not ascending, or
                weights that are negative or do not sum to 1 per group (0 for dropped tokens).
        """
        _check_counts(self.num_in, self.num_out)
        facts = self._facts
        if facts.least_group < -1 or facts.last_group >= self.num_out:
            raise ConfigError(
                f"MergePlan.group: got {facts.least_group}..{facts.last_group}, expected "
                f"-1..{self.num_out - 1}."
            )
        if not facts.ascending or facts.first_anchor < 0 or facts.last_anchor >= self.num_in:
            raise ConfigError(
                f"MergePlan.anchor: got {facts.first_anchor}..{facts.last_anchor}, expected "
                f"ascending tokens in 0..{self.num_in - 1}."
            )
        if not facts.anchors_in_their_group:
            raise ConfigError("MergePlan.anchor: expected anchor m to be a token of group m.")
        if not facts.shares_sum_to_one:
            raise ConfigError("MergePlan.weight: expected shares >= 0 that sum to 1 per group.")
        return self

    @classmethod
    def identity(cls, num_tokens: int, device: torch.device | str = "cpu") -> "MergePlan":
        """Build the plan that keeps all ``num_tokens`` tokens as they are."""
        index = torch.arange(num_tokens, device=device)
        return cls(group=index, weight=torch.ones(num_tokens, device=device), anchor=index)

    @classmethod
    def from_groups(
        cls, group: torch.Tensor, anchor: torch.Tensor, weight: torch.Tensor | None = None
    ) -> "MergePlan":
        """Build a plan from group labels; without weights every group is a plain mean.

        Args:
            group: ``(N,)`` int64 in ``[-1, M)``.
            anchor: ``(M,)`` int64, ascending.
            weight: ``(N,)`` unnormalised, non-negative shares; scaled to sum to 1 per group.

        Raises:
            ConfigError: as :meth:`check`.
        """
        _check_axes({"group": group, "anchor": anchor})
        _check_counts(len(group), len(anchor))
        if weight is not None and weight.shape != group.shape:
            raise ConfigError(
                f"MergePlan.weight: got shape {tuple(weight.shape)}, expected "
                f"{tuple(group.shape)}: one per token."
            )
        kept = group >= 0
        share = torch.ones(group.shape, device=group.device) if weight is None else weight.float()
        share = torch.where(kept, share, 0.0)
        # In float64: thousands of small equal shares drift away in float32.
        inside = group.clamp(0, len(anchor) - 1)
        total = torch.zeros(anchor.shape[0], dtype=torch.float64, device=group.device)
        total.index_add_(0, inside, share.double())
        share = share / total[inside].clamp(min=torch.finfo(torch.float32).tiny)
        return cls(group=group, weight=share.float(), anchor=anchor).check()

    @classmethod
    def keep(cls, kept: torch.Tensor, num_tokens: int) -> "MergePlan":
        """Build the plan that keeps some tokens as they are and drops the rest.

        Args:
            kept: ``(M,)`` int64, ascending.
            num_tokens: ``N``.

        Raises:
            ConfigError: as :meth:`check`.
        """
        _check_axes({"kept": kept})
        _check_range("kept", kept, 0, num_tokens)
        group = torch.full((num_tokens,), -1, device=kept.device)
        group[kept] = torch.arange(kept.shape[0], device=kept.device)
        return cls.from_groups(group, kept)

    @classmethod
    def from_labels(cls, label: torch.Tensor, weight: torch.Tensor | None = None) -> "MergePlan":
        """Build the plan that merges tokens with the same label into the first of them.

        Args:
            label: ``(N,)`` int64 >= -1, with gaps or without; tokens of -1 are dropped.
            weight: see :meth:`from_groups`.

        Raises:
            ConfigError: as :meth:`check`.
        """
        _check_axes({"label": label})
        if len(label) and int(label.min()) < -1:
            raise ConfigError(f"MergePlan.label: got {int(label.min())}, expected -1 or more.")
        token = torch.arange(len(label), device=label.device)
        found, place = torch.unique(label, return_inverse=True)
        first = token.new_full((len(found),), len(label))
        first = first.scatter_reduce_(0, place, token, "amin")[place]
        return cls.from_anchors(torch.where(label >= 0, first, -1), weight)

    @classmethod
    def from_anchors(cls, label: torch.Tensor, weight: torch.Tensor | None = None) -> "MergePlan":
        """Build the plan in which every token names the token that stands for its group.

        Args:
            label: ``(N,)`` int64: a token that names itself, or -1 to drop the token.
            weight: see :meth:`from_groups`.

        Raises:
            ConfigError: as :meth:`check`.
        """
        _check_axes({"label": label})
        _check_range("label", label, -1, len(label))
        named = label[label >= 0]
        if not torch.equal(label[named], named):
            raise ConfigError(
                "MergePlan.from_anchors: got labels that name a token which does not name itself, "
                "expected the tokens that stand for the groups. Use from_labels() for others."
            )
        leads = label == torch.arange(label.shape[0], device=label.device)
        rank = leads.cumsum(0) - 1
        group = torch.where(label >= 0, rank[label.clamp(min=0)], -1)
        return cls.from_groups(group, leads.nonzero().squeeze(1), weight)

    @property
    def num_in(self) -> int:
        """Input tokens ``N``."""
        return self.group.shape[0]

    @property
    def num_out(self) -> int:
        """Output tokens ``M``."""
        return self.anchor.shape[0]

    @property
    def retention(self) -> float:
        """Tokens out / tokens in."""
        return self.num_out / self.num_in

    @property
    def sizes(self) -> torch.Tensor:
        """``(M,)`` int64: input tokens merged into each output token."""
        return torch.bincount(self.group[self.group >= 0], minlength=self.num_out)

    @property
    def num_untouched(self) -> int:
        """How many of the first tokens stay as they are, at their places."""
        place = torch.arange(self.num_in, device=self.group.device)
        alone = self.sizes[self.group.clamp(min=0)] == 1
        return int(((self.group == place) & alone).long().cumprod(0).sum())

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """Merge one row per token: ``(N, ...)`` floating to ``(M, ...)``, in the dtype of ``x``.

        Differentiable in ``x``; dropped tokens are never read. Summed in float32 (float64 for
        float64) in the order of the tokens, so that every run gives the same bits.

        Raises:
            ConfigError: ``x`` does not have ``N`` rows, or is not floating.
        """
        self._check_axis(x, 0)
        if not x.dtype.is_floating_point:
            raise ConfigError(
                f"apply: got dtype {x.dtype}, expected a floating one. "
                "Use gather() for ids, positions and masks."
            )
        rows = x.reshape(self.num_in, math.prod(x.shape[1:]))
        merged = self._sum_in_order(rows) if self.accumulate == "float32" else self._sum_rows(rows)
        return merged.reshape(self.num_out, *x.shape[1:])

    def _sum_in_order(self, rows: torch.Tensor) -> torch.Tensor:
        """Sum groups in float32; wide half precision rows are converted in column pieces."""
        token, offset = self._segments
        dtype = torch.promote_types(rows.dtype, torch.float32)
        share = self.weight[token].to(dtype)
        learns = torch.is_grad_enabled() and rows.requires_grad
        if use_kernels(rows.device) and not learns:
            from sttm.kernels.segment_sums import segment_sums

            return segment_sums(rows, token, offset, share)
        width = rows.shape[1] if rows.dtype == dtype else _PIECE // self.num_in
        # Rows that are not contiguous would be summed by other code, one bit differently.
        pieces = (p.to(dtype).contiguous() for p in torch.split(rows, max(1, width), dim=1))
        merged = [
            embedding_bag(
                token,
                piece,
                offset,
                mode="sum",
                per_sample_weights=share,
                include_last_offset=True,
            )
            for piece in pieces
        ]
        return torch.cat([piece.to(rows.dtype) for piece in merged], dim=1)

    def _sum_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Sum groups in the dtype of the rows, shares rounded to it."""
        token, _ = self._segments
        share = self.weight[token, None].to(rows.dtype)
        merged = rows.new_zeros((self.num_out, rows.shape[1]))
        return merged.index_add_(0, self.group[token], rows[token] * share)

    @cached_property
    def _segments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens that count, sorted by group; where each group starts, and where the last ends."""
        group = torch.where(self.weight > 0, self.group, -1)
        order = group.argsort(stable=True)
        counts = group.new_zeros(self.num_out + 1)
        counts.scatter_add_(0, group + 1, torch.ones_like(group))
        ends = counts.cumsum(0)
        return order[self._facts.unread :], ends - ends[0]

    @cached_property
    def _facts(self) -> "_Facts":
        """What `check` and `apply` have to know of the numbers, in one read from the device."""
        group, anchor, tokens = self.group, self.anchor, self.num_in
        known = group.clamp(-1, self.num_out - 1)
        total = torch.zeros(self.num_out + 1, dtype=torch.float64, device=group.device)
        total.index_add_(0, known + 1, self.weight.double())
        wanted = torch.ones_like(total)
        wanted[:1] = 0.0
        summed = ((total - wanted).abs() <= 1e-5).all() & (self.weight >= 0).all()
        own = torch.arange(self.num_out, device=group.device)
        named = group[anchor.clamp(0, tokens - 1)] == own
        numbers = (
            group.amin(),
            group.amax(),
            anchor[0],
            anchor[-1],
            (anchor.diff() > 0).all(),
            named.all(),
            summed,
            ((self.weight <= 0) | (group < 0)).sum(),
        )
        return _Facts(*torch.stack([number.long() for number in numbers]).tolist())

    def gather(self, values: torch.Tensor, dim: int = 0) -> torch.Tensor:
        """Pick the anchors' entries along ``dim`` (any dtype): length ``N`` becomes ``M``.

        Raises:
            ConfigError: ``values`` does not have ``N`` entries along ``dim``.
        """
        self._check_axis(values, dim)
        return values.index_select(dim, self.anchor)

    def compose(self, then: "MergePlan") -> "MergePlan":
        """Return the plan that does this one and ``then`` the other, on this one's inputs.

        Its ``info`` is that of ``then``, with this plan's under ``"before"``.

        Raises:
            ConfigError: ``then`` does not take as many tokens as this plan gives.
        """
        if then.num_in != self.num_out:
            raise ConfigError(
                f"compose: got a plan of {then.num_in} input tokens, expected {self.num_out}, "
                "the output tokens of the first plan."
            )
        kept = self.group >= 0
        middle = self.group.clamp(min=0)
        return replace(
            then,
            group=torch.where(kept, then.group[middle], -1),
            weight=torch.where(kept, self.weight * then.weight[middle], 0.0),
            anchor=self.anchor[then.anchor],
            info={**then.info, "before": self.info},
        )

    def to(self, device: torch.device | str) -> "MergePlan":
        """Return the same plan on another device, tensors in ``info`` included."""
        info = {
            key: value.to(device) if isinstance(value, torch.Tensor) else value
            for key, value in self.info.items()
        }
        return replace(
            self,
            info=info,
            group=self.group.to(device),
            weight=self.weight.to(device),
            anchor=self.anchor.to(device),
        )

    def _check_axis(self, x: torch.Tensor, dim: int) -> None:
        if x.ndim == 0 or x.shape[dim] != self.num_in:
            raise ConfigError(
                f"got shape {tuple(x.shape)}, expected {self.num_in} entries along axis {dim}: "
                "one per input token of this plan."
            )


def _check_axes(parts: Mapping[str, torch.Tensor]) -> None:
    """Check the dtypes and that there is one axis each."""
    for name, value in parts.items():
        dtype = torch.float32 if name == "weight" else torch.int64
        if not isinstance(value, torch.Tensor) or value.ndim != 1 or value.dtype != dtype:
            is_tensor = isinstance(value, torch.Tensor)
            got = f"{value.dtype} of shape {tuple(value.shape)}" if is_tensor else repr(type(value))
            raise ConfigError(f"MergePlan.{name}: got {got}, expected one axis of {dtype}.")


def _check_counts(num_in: int, num_out: int) -> None:
    if num_in == 0 or not 1 <= num_out <= num_in:
        raise ConfigError(
            f"MergePlan: got {num_out} of {num_in} tokens, expected 1 to all of them."
        )


@dataclass(frozen=True)
class _Facts:
    """Numbers of a plan that its device was asked for.

    Args:
        least_group: the smallest group.
        last_group: the largest.
        first_anchor: the first anchor.
        last_anchor: the last one.
        ascending: 1 if the anchors ascend.
        anchors_in_their_group: 1 if anchor m is a token of group m, for all groups.
        shares_sum_to_one: 1 if shares are not negative and sum to 1 per group, 0 if dropped.
        unread: tokens that are dropped or have no share.
    """

    least_group: int
    last_group: int
    first_anchor: int
    last_anchor: int
    ascending: int
    anchors_in_their_group: int
    shares_sum_to_one: int
    unread: int


def _check_range(name: str, value: torch.Tensor, least: int, end: int) -> None:
    """Refuse integers below ``least``, or not below ``end``."""
    if len(value) and not least <= int(value.min()) <= int(value.max()) < end:
        raise ConfigError(
            f"MergePlan.{name}: got {int(value.min())} to {int(value.max())}, expected {least} to "
            f"{end - 1}."
        )
