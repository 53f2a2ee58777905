"""Time and memory of a prefill and of decoding, with all tokens and reduced, at published shapes.

Random weights: what is measured is time and memory, not answers. The vision tower is left out, as
in the paper: TTFT (time to first token) is the language model's first forward, merging included.
"""

import statistics
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, ClassVar, cast

import torch

from sttm.attachment import attach
from sttm.budget import token_budget
from sttm.errors import ConfigError
from sttm.evaluation.checks import MOST_REPEATS, check_count
from sttm.evaluation.memory import check_memory, peak_memory
from sttm.evaluation.shapes import Shape, build, find_shape, prompt
from sttm.evaluation.specs import (
    ALL,
    ALL_TOKENS,
    Keep,
    Setting,
    check_budgets,
    check_frames,
    check_labels,
    make_settings,
    parse_spec,
)
from sttm.methods import DecodePruning, Identity, Method, VideoFeatures
from sttm.models import transformers_api as api
from sttm.models.timing import now
from sttm.plan import MergePlan

DECODED = 4  # tokens that are decoded and timed after the first one

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Forced(Method):
    """Plans with a method for its cost, and sees to it that the count is the budget's.

    Random weights make all features alike or none, so that a rule that follows the content keeps
    next to nothing or everything. Where the method gives the exact count, its own plan is used;
    else evenly spread groups of neighbours.

    Args:
        inner: the method.
        keep: the count or share to force.
    """

    inner: Method
    keep: Keep

    name: ClassVar[str] = "forced"

    def __post_init__(self) -> None:
        # Of the method, and so of this object alone.
        object.__setattr__(self, "requires", self.inner.requires)
        object.__setattr__(self, "query_aware", self.inner.query_aware)

    @property
    def decode_pruning(self) -> DecodePruning | None:
        """As the method."""
        return self.inner.decode_pruning

    def plan(self, video: VideoFeatures) -> MergePlan:
        """Plan with the method; see `sttm.Method.plan`."""
        return self.plan_batch([video])[0]

    def plan_batch(self, videos: Sequence[VideoFeatures]) -> list[MergePlan]:
        """Plan with the method; see `sttm.Method.plan_batch`."""
        plans = self.inner.plan_batch(videos)
        return [self._forced(video, plan) for video, plan in zip(videos, plans, strict=True)]

    def _forced(self, video: VideoFeatures, plan: MergePlan) -> MergePlan:
        total = video.grid.num_tokens
        count = token_budget(self.keep, total)
        if plan.num_out == count:
            return plan
        index = torch.arange(total, device=video.device)
        forced = MergePlan.from_labels(index * count // total)
        return replace(forced, info={"forced": plan.num_out})


@dataclass(frozen=True)
class Run:
    """One measured prefill and a few decoding steps; seconds and bytes."""

    ttft: float
    merge: float
    per_token: float
    kv_bytes: int
    peak_extra: int | None
    peak_total: int | None
    tokens_out: int


@dataclass(frozen=True)
class SpeedRow:
    """Medians over the repeats for one setting.

    Args:
        frames: sampled frames.
        method: label; "all" for all tokens.
        keep: the budget.
        tokens_in, tokens_out: video tokens.
        own_count: whether the method's own plan was used; False: forced to the count.
        merge_s: deciding on the plan, and on masks and positions; part of ``ttft_s``.
        ttft_s: the language model's first forward, merging included, vision tower excluded.
        ttft_min_s, ttft_max_s: the fastest and the slowest repeat.
        decode_s: per further token.
        kv_mib: keys and values after the prefill and the decoded tokens.
        peak_mib: most memory during prefill and decoding, beyond weights and features.
        peak_total_mib: with them.
        ttft_ratio: TTFT / TTFT with all tokens.
        ideal_ratio: the same of floating-point operations, without merging.
        share_of_ideal: ideal ratio / ratio: 1 is as fast as the operations allow.
    """

    frames: int
    method: str
    keep: Keep | None
    tokens_in: int
    tokens_out: int
    own_count: bool
    merge_s: float
    ttft_s: float
    ttft_min_s: float
    ttft_max_s: float
    decode_s: float
    kv_mib: float
    peak_mib: float | None
    peak_total_mib: float | None
    ttft_ratio: float
    ideal_ratio: float
    share_of_ideal: float


@dataclass(frozen=True)
class SpeedPlan:
    """What to measure.

    Args:
        shape: a name of `sttm.evaluation.shapes.SHAPES`.
        settings: what to compare; all tokens are always measured.
        frames: sampled frames.
        layer: the merging layer; None for the published one.
        repeats: timed runs of each setting after one to warm up.
        device: where.
        dtype: of weights and activations.

    Raises:
        ConfigError: a number out of range.
        UnknownNameError: no such shape.
    """

    shape: str
    settings: tuple[Setting, ...]
    frames: tuple[int, ...]
    layer: int | None = None
    repeats: int = 3
    device: str = "cpu"
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        shape = find_shape(self.shape)
        check_count("repeats", self.repeats, most=MOST_REPEATS)
        check_frames(self.frames)
        if self.layer is not None:
            check_count("layer", self.layer, 0, shape.layers - 1)
        _check_device(self.device)


def _check_device(name: str) -> None:
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):  # PyTorch's own for a name that it does not know
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device: got {name!r}, expected cpu, cuda, or one GPU such as cuda:1.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = torch.cuda.device_count()
        raise ConfigError(f"device: got {name}, but PyTorch finds {found} GPUs. Use --device cpu.")


def speed_settings(methods: Sequence[str], keeps: Sequence[Keep]) -> list[Setting]:
    """Cross methods with budgets; every method meets every budget, forced if need be.

    A method with ``keep=none`` plans by its own rule, its thresholds say; its count is forced.

    Raises:
        ConfigError: see `make_settings`.
    """
    specs = [parse_spec(text) for text in methods]
    check_labels(specs)
    keeps = check_budgets(keeps)
    settings = [ALL_TOKENS]
    for text, spec in zip(methods, specs, strict=True):
        if spec.swept or dict(spec.options)["keep"] is not None:
            swept = [s for s in make_settings([text], keeps) if s.method is not None]
        else:
            budgets = [keep for keep in keeps if keep != 1.0 or isinstance(keep, int)]
            swept = [Setting(spec.label, keep, spec.build(None), spec.text) for keep in budgets]
        settings += swept
    return settings


def measure(plan: SpeedPlan, *, progress: Progress | None = None) -> list[SpeedRow]:
    """Measure every setting at every length, in turn within each repeat.

    Args:
        plan: what to measure.
        progress: told how many runs are done, of how many.

    Raises:
        ConfigError: too little memory, told before anything is built.
    """
    shape, device = find_shape(plan.shape), torch.device(plan.device)
    check_memory(plan.shape, shape, max(plan.frames), plan.dtype, device)
    model = build(shape, device, plan.dtype)
    total = len(plan.frames) * (plan.repeats + 1) * len(plan.settings)
    rows: list[SpeedRow] = []
    done = 0
    for frames in plan.frames:
        bench = _Bench(model, shape, frames, shape.layer if plan.layer is None else plan.layer)
        bench.encode([setting.method for setting in plan.settings if setting.method is not None])
        runs: dict[Setting, list[Run]] = {setting: [] for setting in plan.settings}
        for repeat in range(plan.repeats + 1):
            for setting in plan.settings:
                run = bench.run(setting)
                if repeat:  # the first round warms up
                    runs[setting].append(run)
                done += 1
                if progress is not None:
                    progress(done, total)
        rows += [bench.row(setting, runs) for setting in plan.settings]
    return rows


class _Bench:
    """A model and one prompt."""

    def __init__(self, model: Any, shape: Shape, frames: int, layer: int) -> None:
        self.model, self.shape, self.frames, self.layer = model, shape, frames, layer
        self.inputs = prompt(model, shape, frames)
        self.length = self.inputs["input_ids"].shape[1]
        self.features: Any = None
        self._forced: dict[Setting, bool] = {}

    @torch.no_grad()
    def encode(self, methods: Sequence[Method]) -> None:
        """Run the token-sized tower once, with the evidence that any of the methods needs."""
        names = (api.PIXELS["video"], api.VIDEO_GRID)
        arguments = {name: self.inputs.pop(name) for name in names if name in self.inputs}
        if api.VIDEO_GRID in arguments:
            self.inputs[api.VIDEO_GRID] = arguments[api.VIDEO_GRID]
        needing = (method for method in methods if "tower_attention" in method.requires)
        observer = next(needing, Identity())
        with attach(self.model, observer, layer=self.layer):
            self.features = self.model.model.get_video_features(**arguments, return_dict=True)

    @torch.no_grad()
    def run(self, setting: Setting) -> Run:
        """Time the first forward and some decoding steps."""
        attached: Any = nullcontext()
        if setting.method is not None:
            keep, method = setting.keep, cast(Any, setting.method)
            forced: Any = method if keep is None else Forced(method, keep)
            attached = attach(self.model, forced, layer=self.layer)
        device = self.model.device
        with attached as attachment, peak_memory(device) as peak:
            start = now(device)
            out = self.model(
                **self.inputs,
                **api.features_argument("video", self.features),
                use_cache=True,
                logits_to_keep=1,
            )
            first = now(device)
            cache, token = api.cache_of(out), out.logits[:, -1:].argmax(-1)
            assert cache is not None
            for _ in range(DECODED):
                step = self.model(
                    input_ids=token, **api.cache_argument(self.model, cache), use_cache=True
                )
                token = step.logits[:, -1:].argmax(-1)
            end = now(device)
        report = None if attachment is None else attachment.reports[0]
        if report is not None:
            self._forced[setting] = not _is_own(report.plan, setting)
        return Run(
            ttft=first - start,
            merge=0.0 if report is None else report.milliseconds / 1e3,
            per_token=(end - first) / DECODED,
            kv_bytes=sum(part.keys.nbytes + part.values.nbytes for part in cache.layers),
            peak_extra=peak.extra,
            peak_total=peak.total,
            tokens_out=self.tokens_in if report is None else report.tokens_out,
        )

    @property
    def tokens_in(self) -> int:
        """Video tokens of the prompt."""
        return self.shape.video_tokens(self.frames)

    def row(self, setting: Setting, runs: dict[Setting, list[Run]]) -> SpeedRow:
        """Take medians, and compare with all tokens."""
        own, whole = runs[setting], runs[ALL_TOKENS]
        kept = own[0].tokens_out
        ratio = _median(own, "ttft") / _median(whole, "ttft")
        ideal = self._ideal(kept)
        times = [run.ttft for run in own]
        return SpeedRow(
            frames=self.frames,
            method=setting.label,
            keep=setting.keep,
            tokens_in=self.tokens_in,
            tokens_out=kept,
            own_count=not self._forced.get(setting, False),
            merge_s=round(_median(own, "merge"), 6),
            ttft_s=round(_median(own, "ttft"), 6),
            ttft_min_s=round(min(times), 6),
            ttft_max_s=round(max(times), 6),
            decode_s=round(_median(own, "per_token"), 6),
            kv_mib=round(own[0].kv_bytes / 2**20, 2),
            peak_mib=_mib([run.peak_extra for run in own]),
            peak_total_mib=_mib([run.peak_total for run in own]),
            ttft_ratio=round(ratio, 4),
            ideal_ratio=round(ideal, 4),
            share_of_ideal=round(ideal / ratio, 3),
        )

    def _ideal(self, kept: int) -> float:
        """Operations of a prefill that merges at the layer, over those of one that does not."""
        short, layers = self.length - self.tokens_in + kept, self.shape.layers
        below = self.shape.operations(self.length, self.layer)
        above = self.shape.operations(short, layers - self.layer)
        return (below + above) / self.shape.operations(self.length, layers)


def _is_own(plan: MergePlan, setting: Setting) -> bool:
    return setting.label == ALL or plan.info.get("forced") is None


def _median(runs: Sequence[Run], name: str) -> float:
    return float(statistics.median(getattr(run, name) for run in runs))


def _mib(values: Sequence[int | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.median(known) / 2**20, 1) if known else None
