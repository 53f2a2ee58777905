"""What a reduction method is: a frozen dataclass that turns features into a plan."""

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol, get_args, runtime_checkable

import torch

from sttm.errors import ConfigError
from sttm.grid import VideoGrid
from sttm.plan import MergePlan

Need = Literal["tower_attention", "prompt_attention"]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What is known of a video's tokens beside their features; only what a method asked for.

    Args:
        tower_attention: ``(N,)`` float32 >= 0, the attention that each video token receives in the
            vision tower, pooled like the features; sums to 1 per frame.
        prompt_attention: ``(N,)`` float32 >= 0, the attention that the prompt's last token pays to
            each video token in one decoder layer, mean over heads.
    """

    tower_attention: torch.Tensor | None = None
    prompt_attention: torch.Tensor | None = None


@dataclass(frozen=True)
class DecodePruning:
    """What a method hides from the upper decoder layers while answering, anew for every token.

    Args:
        layer: first decoder layer (0-based) that sees less; the layer in front of it is asked.
        keep: the part of a prompt's remaining video tokens, rounded down, that each new token still
            sees there: those that it attends to most. In (0, 1].
    """

    layer: int
    keep: float


def needs_of(method: object) -> frozenset[str]:
    """Return what evidence a method asks for; empty if it does not say.

    Raises:
        ConfigError: it asks for something that does not exist.
    """
    needs: frozenset[str] = frozenset(getattr(method, "needs", ()))
    unknown = needs.difference(get_args(Need))
    if unknown:
        raise ConfigError(
            f"{type(method).__name__}.needs: got {', '.join(sorted(unknown))}, expected some of: "
            f"{', '.join(get_args(Need))}."
        )
    return needs


def check_method(method: object) -> None:
    """Refuse what is no method, before anything runs.

    Raises:
        ConfigError: a class instead of an object of it, or an object that lacks a part.
    """
    if isinstance(method, type):
        raise ConfigError(
            f"method: got the class {method.__name__}, expected an object of it, e.g. "
            f"{method.__name__}(keep=0.3)."
        )
    parts = {name: getattr(method, name, None) for name in ("plan", "name", "query_aware")}
    sound = {
        "plan": callable(parts["plan"]),
        "name": isinstance(parts["name"], str),
        "query_aware": isinstance(parts["query_aware"], bool),
    }
    lacking = [name for name, is_sound in sound.items() if not is_sound]
    if lacking:
        raise ConfigError(
            f"method: got {type(method).__name__} without {', '.join(lacking)}, expected an object "
            "with plan(x, grid), name and query_aware, e.g. sttm.STTM(keep=0.3)."
        )


def required(
    evidence: Evidence | None, need: Need, grid: VideoGrid, device: torch.device
) -> torch.Tensor:
    """Return one field of the evidence as ``(N,)`` float32 on ``device``; for plans that need it.

    Raises:
        ConfigError: it is not there, of the wrong shape, negative or not finite.
    """
    value: torch.Tensor | None = None if evidence is None else getattr(evidence, need)
    if value is None:
        raise ConfigError(
            f"evidence: got no {need}, expected (N,) values for {grid}. sttm.attach() measures it; "
            f"by hand, pass Evidence({need}=...)."
        )
    if value.shape != (grid.num_tokens,):
        raise ConfigError(
            f"evidence.{need}: got shape {tuple(value.shape)}, expected ({grid.num_tokens},) "
            f"for {grid}."
        )
    if not bool((torch.isfinite(value) & (value >= 0)).all()):
        raise ConfigError(f"evidence.{need}: got negative or NaN values, expected attention >= 0.")
    return value.detach().to(device=device, dtype=torch.float32)


@runtime_checkable
class Method(Protocol):
    """Decides which video tokens become one; pure, without a model and without state.

    A method may also have ``needs: ClassVar[frozenset[Need]]``; its ``plan`` then gets an
    `Evidence` with those fields as a third argument (optional in its signature: see `required`).
    A method whose attribute ``share`` is "joint" has ``plan_together``, which plans all videos of
    one call of the model at once: a list of ``(x, grid)`` to a list of plans. One whose attribute
    ``decode_pruning`` is a `DecodePruning` also acts while answering.

    Attributes:
        name: the name in the registry.
        query_aware: whether the plan depends on the question; such a plan cannot be shared by
            several questions about one video.
    """

    name: ClassVar[str]
    query_aware: ClassVar[bool]

    def plan(self, x: torch.Tensor, grid: VideoGrid) -> MergePlan:
        """Plan the reduction of one video.

        Args:
            x: ``(N, C)`` floating features in the order t, y, x. Not modified.
            grid: the video's shape in tokens, ``grid.num_tokens == N``.

        Raises:
            ConfigError: ``x`` does not fit the grid or is not finite.
        """
        ...
