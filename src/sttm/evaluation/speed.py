"""Time and memory from a file to the first token and beyond, at published shapes.

Random weights: what is measured is time and memory, not answers. TTFT (time to first token) is the
language model's first forward, merging included, as in the paper; the stages in front of it are
rows of their own.
"""

from collections.abc import Callable, Hashable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, cast

import torch

from sttm.attachment import attach
from sttm.errors import ConfigError
from sttm.evaluation.checks import MOST_REPEATS, check_count
from sttm.evaluation.forced import Forced
from sttm.evaluation.memory import check_memory, peak_memory
from sttm.evaluation.result_log import ResultLog
from sttm.evaluation.shapes import (
    Shape,
    build,
    find_shape,
    prompt,
)
from sttm.evaluation.specs import (
    ALL_TOKENS,
    Keep,
    Setting,
    check_budgets,
    check_frames,
    check_labels,
    make_settings,
    parse_spec,
)
from sttm.evaluation.speed_rows import Run, SpeedRow, speed_row
from sttm.evaluation.stage_rows import stage_rows
from sttm.evaluation.stages import FrontBench, StageRow, measure_rates, still_camera
from sttm.methods import Identity, Method
from sttm.models import transformers_api as api
from sttm.models.timing import now

DECODED = 4  # tokens that are decoded and timed after the first one

Progress = Callable[[int, int], None]


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


@dataclass(frozen=True)
class SpeedRecord:
    """One measurement; a line of the log of a run.

    Args:
        part: "front" of the decoder, or "decoder".
        frames: sampled frames.
        setting: its name; empty in front of the decoder.
        repeat: which one; 0 warms up.
        values: what was measured.
    """

    part: str
    frames: int
    setting: str
    repeat: int
    values: dict[str, Any]

    @property
    def key(self) -> Hashable:
        """What no two records of a log share."""
        return self.part, self.frames, self.setting, self.repeat


@dataclass(frozen=True)
class SpeedResult:
    """What was measured: the language model by itself, and the whole way by stages."""

    rows: list[SpeedRow]
    stages: list[StageRow]


def measure(
    plan: SpeedPlan,
    *,
    log: ResultLog[SpeedRecord] | None = None,
    video: Path | None = None,
    progress: Progress | None = None,
) -> SpeedResult:
    """Measure every setting at every length, in turn within each repeat.

    Args:
        plan: what to measure.
        log: where measurements go as they come; those that it holds are not made again.
        video: what is decoded and encoded; None for a made video of a camera that stands still.
        progress: told how many runs are done, of how many.

    Raises:
        ConfigError: too little memory, told before anything is built.
    """
    shape, device = find_shape(plan.shape), torch.device(plan.device)
    check_memory(plan.shape, shape, max(plan.frames), plan.dtype, device)
    records = _Records(plan, log, progress)
    for frames in plan.frames:
        with still_camera(frames) if video is None else nullcontext(video) as file:
            front = cache(partial(FrontBench, shape, file, device, plan.dtype))
            for turn in range(plan.repeats + 1):
                records.make("front", frames, "", turn, partial(_front, front, frames))
    model = cache(partial(build, shape, device, plan.dtype))
    layer = shape.layer if plan.layer is None else plan.layer
    for frames in plan.frames:
        bench = cache(partial(_bench, model, shape, frames, layer, plan.settings))
        for turn in range(plan.repeats + 1):
            for setting in plan.settings:
                run = partial(_decoder, bench, setting)
                records.make("decoder", frames, str(setting), turn, run)
    rates = measure_rates(device, plan.dtype)
    rows: list[SpeedRow] = []
    stages: list[StageRow] = []
    for frames in plan.frames:
        runs = {
            setting: [Run(**values) for values in records.of("decoder", frames, str(setting))]
            for setting in plan.settings
        }
        own = [speed_row(shape, frames, layer, setting, runs) for setting in plan.settings]
        rows += own
        stages += stage_rows(
            shape,
            own,
            records.of("front", frames, ""),
            rates=rates,
            itemsize=plan.dtype.itemsize,
            layer=layer,
        )
    return SpeedResult(rows, stages)


class _Records:
    """The measurements of a run: those that its log holds, and those that are made now."""

    def __init__(
        self, plan: SpeedPlan, log: ResultLog[SpeedRecord] | None, progress: Progress | None
    ) -> None:
        self._log, self._repeats = log, plan.repeats
        self._known: dict[Any, SpeedRecord] = {} if log is None else dict(log.known)
        self._total = len(plan.frames) * (plan.repeats + 1) * (1 + len(plan.settings))
        self._tell = progress or (lambda done, total: None)

    def make(
        self, part: str, frames: int, setting: str, turn: int, run: Callable[[], dict[str, Any]]
    ) -> None:
        """Measure, unless that is known."""
        key = part, frames, setting, turn
        if key not in self._known:
            self._known[key] = record = SpeedRecord(*key, values=run())
            if self._log is not None:
                self._log.add([record])
        self._tell(len(self._known), self._total)

    def of(self, part: str, frames: int, setting: str) -> list[dict[str, Any]]:
        """Return what was measured behind the warm-up."""
        turns = range(1, self._repeats + 1)
        return [self._known[part, frames, setting, turn].values for turn in turns]


def _front(front: Callable[[], FrontBench], frames: int) -> dict[str, Any]:
    return dict(front().run(frames))


def _bench(model: Callable[[], Any], *arguments: Any) -> "_Bench":
    return _Bench(model(), *arguments)


def _decoder(bench: Callable[[], "_Bench"], setting: Setting) -> dict[str, Any]:
    return asdict(bench().run(setting))


class _Bench:
    """A model and one prompt."""

    def __init__(
        self, model: Any, shape: Shape, frames: int, layer: int, settings: Sequence[Setting]
    ) -> None:
        self.model, self.layer = model, layer
        self.tokens_in = shape.video_tokens(frames)
        self.inputs = prompt(model, shape, frames)
        self.features = self._encode([s.method for s in settings if s.method is not None])

    @torch.no_grad()
    def _encode(self, methods: Sequence[Method]) -> Any:
        """Run the token-sized tower once, with the evidence that any of the methods needs."""
        names = (api.PIXELS["video"], api.VIDEO_GRID)
        arguments = {name: self.inputs.pop(name) for name in names if name in self.inputs}
        if api.VIDEO_GRID in arguments:
            self.inputs[api.VIDEO_GRID] = arguments[api.VIDEO_GRID]
        needing = (method for method in methods if "tower_attention" in method.requires)
        observer = next(needing, Identity())
        with attach(self.model, observer, layer=self.layer):
            return self.model.model.get_video_features(**arguments, return_dict=True)

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
        return Run(
            ttft=first - start,
            merge=0.0 if report is None else report.milliseconds / 1e3,
            per_token=(end - first) / DECODED,
            kv_bytes=sum(part.keys.nbytes + part.values.nbytes for part in cache.layers),
            peak_extra=peak.extra,
            peak_total=peak.total,
            tokens_out=self.tokens_in if report is None else report.tokens_out,
            forced=report is not None and report.plan.info.get("forced") is not None,
        )
