"""What a reduction method is: a frozen dataclass that turns a video's features into a plan."""

import functools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch

from sttm.budget import check_keep, token_budget
from sttm.deprecated import warn_renamed
from sttm.errors import ConfigError
from sttm.grid import VideoGrid
from sttm.methods.checks import check_count, check_number
from sttm.plan import MergePlan

Signal = Literal["tower_attention", "prompt_attention"]
_SIGNALS: tuple[Signal, ...] = get_args(Signal)


@dataclass(frozen=True, eq=False)
class VideoFeatures:
    """One video as a method sees it; correct once it exists.

    Args:
        x: ``(N, C)`` floating features in the order t, y, x. Methods never modify them.
        grid: the video's shape in tokens, ``grid.num_tokens == N``.
        tower_attention: ``(N,)`` >= 0, the attention that each video token receives in the vision
            tower, pooled like the features; sums to 1 per frame. None if it was not measured.
        prompt_attention: ``(N,)`` >= 0, the attention that the prompt's last token pays to each
            video token in one decoder layer, mean over heads. None if it was not measured.

    Raises:
        ConfigError: ``x`` or an attention does not fit the grid, or is not finite.
    """

    x: torch.Tensor
    grid: VideoGrid
    tower_attention: torch.Tensor | None = None
    prompt_attention: torch.Tensor | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.grid, VideoGrid):
            raise ConfigError(f"grid: got {type(self.grid).__name__}, expected a VideoGrid.")
        self.grid.check(self.x)
        for name in _SIGNALS:
            value = getattr(self, name)
            if value is None:
                continue
            if value.shape != (self.grid.num_tokens,):
                raise ConfigError(
                    f"{name}: got shape {tuple(value.shape)}, expected ({self.grid.num_tokens},) "
                    f"for {self.grid}."
                )
            if not bool((torch.isfinite(value) & (value >= 0)).all()):
                raise ConfigError(f"{name}: got negative or NaN values, expected attention >= 0.")

    @property
    def device(self) -> torch.device:
        """Where the features are, and where the plan will be."""
        return self.x.device

    def attention(self, signal: Signal) -> torch.Tensor:
        """Return one attention as ``(N,)`` float32 on the features' device.

        Raises:
            ConfigError: it was not measured.
        """
        value: torch.Tensor | None = getattr(self, signal)
        if value is None:
            raise ConfigError(
                f"video: got no {signal}, expected (N,) values for {self.grid}. sttm.attach() "
                f"measures it; by hand, pass VideoFeatures(x, grid, {signal}=...)."
            )
        return value.detach().to(device=self.device, dtype=torch.float32)


@dataclass(frozen=True)
class DecodePruning:
    """What a method hides from the upper decoder layers while answering.

    It is hidden from the first new token, and from each whose attention to the video differs from
    that of the new token before it. Any other new token sees all.

    Args:
        layer: first decoder layer (0-based) that sees less; the layer in front of it is asked.
        keep: the part of a prompt's remaining video tokens, rounded down, that such a token still
            sees there: those that it attends to most. In (0, 1].
        threshold: cosine of the attentions of two new tokens in a row below which they differ.
    """

    layer: int
    keep: float
    threshold: float = 0.9

    def __post_init__(self) -> None:
        check_count("DecodePruning.layer", self.layer)
        check_number("DecodePruning.keep", self.keep, 0.0, 1.0, above=True)


def _accepts_tensors(plan: Any) -> Any:
    """Let a method's ``plan`` be called with ``(x, grid)`` too, as before 0.2."""

    @functools.wraps(plan)
    def with_either(
        self: Method, video: VideoFeatures | torch.Tensor, grid: VideoGrid | None = None
    ) -> MergePlan:
        if grid is not None:
            warn_renamed("plan(x, grid)", "plan(VideoFeatures(x, grid))")
            video = VideoFeatures(video, grid)  # type: ignore[arg-type]
        if not isinstance(video, VideoFeatures):
            raise ConfigError(
                f"plan: got {type(video).__name__}, expected a VideoFeatures(x, grid)."
            )
        result: MergePlan = plan(self, video)
        return result

    return with_either


class Method(ABC):
    """Decides which video tokens become one; pure, without a model and without state.

    Subclasses are frozen dataclasses: their fields are the options.

    Attributes:
        name: the name in the registry.
        query_aware: whether the plan depends on the question; such a plan cannot be shared by
            several questions about one video.
        requires: the attention that `plan` reads, see `VideoFeatures`; nothing else is measured.
        default_layer: the decoder layer (0-based) in front of which its authors reduce, 0 being the
            language model's input: where it happens if the user names none. None: the default of
            the model's family.
    """

    name: ClassVar[str]
    query_aware: ClassVar[bool] = False
    requires: ClassVar[frozenset[Signal]] = frozenset()
    default_layer: ClassVar[int | None] = None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "plan" in vars(cls):
            cls.plan = _accepts_tensors(cls.plan)  # type: ignore[method-assign]

    @property
    def decode_pruning(self) -> DecodePruning | None:
        """What the method hides while answering; None if nothing."""
        return None

    @abstractmethod
    def plan(self, video: VideoFeatures) -> MergePlan:
        """Plan the reduction of one video.

        Raises:
            ConfigError: an attention that the method requires is not there.
        """

    def plan_batch(self, videos: Sequence[VideoFeatures]) -> list[MergePlan]:
        """Plan all videos of one call of a model: each by itself, unless a method wants more."""
        return [self.plan(video) for video in videos]


@dataclass(frozen=True)
class TokenPruner(Method):
    """A method that keeps some tokens as they are and drops the rest.

    Args:
        keep: a ratio in (0, 1] as a float, or a count as an integer.

    Raises:
        ConfigError: a value out of range.
    """

    keep: float | int

    def __post_init__(self) -> None:
        check_keep(self.keep)

    @torch.no_grad()
    def plan(self, video: VideoFeatures) -> MergePlan:
        """Plan to keep exactly ``floor(keep * N)`` tokens, at least one."""
        count = token_budget(self.keep, video.grid.num_tokens)
        kept = self.kept(video, count)
        if kept.shape != (count,):
            raise ConfigError(
                f"{type(self).__name__}.kept: got shape {tuple(kept.shape)}, expected ({count},): "
                "as many tokens as the budget has."
            )
        return MergePlan.keep(kept.to(video.device), video.grid.num_tokens)

    @abstractmethod
    def kept(self, video: VideoFeatures, count: int) -> torch.Tensor:
        """Choose the tokens that stay: ``(count,)`` int64, ascending.

        Args:
            video: its features.
            count: in [1, N].
        """


def check_method(method: object) -> None:
    """Refuse what is no method, before anything runs.

    Raises:
        ConfigError: a class instead of an object of it, an object that is no `Method`, or one that
            lacks a name or requires something that does not exist.
    """
    if isinstance(method, type):
        raise ConfigError(
            f"method: got the class {method.__name__}, expected an object of it, e.g. "
            f"{method.__name__}(keep=0.3)."
        )
    if not isinstance(method, Method):
        raise ConfigError(
            f"method: got {type(method).__name__}, expected a subclass of sttm.Method with "
            "plan(video), e.g. sttm.STTM(keep=0.3)."
        )
    check_method_class(type(method))
    pruning: object = method.decode_pruning
    if pruning is not None and not isinstance(pruning, DecodePruning):
        raise ConfigError(
            f"{type(method).__name__}.decode_pruning: got {pruning!r}, expected a DecodePruning."
        )


def check_method_class(cls: type[Method]) -> None:
    """Refuse a method class without a name, or one that requires something that does not exist.

    Raises:
        ConfigError: one of these.
    """
    if not isinstance(getattr(cls, "name", None), str):
        raise ConfigError(f"method: got {cls.__name__} without a name, expected name = '...'.")
    if hasattr(cls, "needs") or hasattr(cls, "plan_together"):
        raise ConfigError(
            f"method: got {cls.__name__} with needs or plan_together, which are now called "
            "requires and plan_batch. See docs/adding-a-method.md."
        )
    layer = cls.default_layer
    if layer is not None and (isinstance(layer, bool) or not isinstance(layer, int) or layer < 0):
        raise ConfigError(
            f"{cls.__name__}.default_layer: got {layer!r}, expected an integer >= 0 or None."
        )
    unknown = frozenset(cls.requires).difference(_SIGNALS)
    if unknown:
        raise ConfigError(
            f"{cls.__name__}.requires: got {', '.join(sorted(unknown))}, expected some of: "
            f"{', '.join(_SIGNALS)}."
        )
