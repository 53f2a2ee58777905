"""The shape of a video in tokens."""

from dataclasses import dataclass

import torch

from sttm.errors import ConfigError

__all__ = ["VideoGrid"]

_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


@dataclass(frozen=True, order=True)
class VideoGrid:
    """``frames x height x width`` video tokens; token ``i = t*height*width + y*width + x``.

    Args:
        frames: time steps, as the language model sees them (after any temporal patching).
        height: token rows of one time step.
        width: token columns of one time step.

    Raises:
        ConfigError: a side is not a positive integer.
    """

    frames: int
    height: int
    width: int

    def __post_init__(self) -> None:
        for name in ("frames", "height", "width"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(
                    f"VideoGrid.{name}: got {value!r}, expected an integer >= 1. "
                    "Give the grid in tokens after pooling or patch merging."
                )

    @property
    def num_tokens(self) -> int:
        """Tokens of the whole video."""
        return self.frames * self.height * self.width

    @property
    def tokens_per_frame(self) -> int:
        """Tokens of one time step."""
        return self.height * self.width

    def check(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``x`` if it holds this grid's features: ``(N, C)``, floating and finite.

        Raises:
            ConfigError: wrong type, rank, length or dtype, an empty feature axis, NaN or inf.
        """
        if not isinstance(x, torch.Tensor):
            raise ConfigError(
                f"x: got {type(x).__name__}, expected a torch.Tensor of shape (N, C)."
            )
        if x.ndim != 2 or x.shape[0] != self.num_tokens or x.shape[1] < 1:
            raise ConfigError(
                f"x: got shape {tuple(x.shape)}, expected ({self.num_tokens}, C) for {self}. "
                "Pass one video at a time, without newline or separator tokens."
            )
        if x.dtype not in _DTYPES:
            raise ConfigError(f"x: got dtype {x.dtype}, expected float32, float16 or bfloat16.")
        # The extremes are NaN if any entry is, and this reads x once without a mask of its size.
        if not bool(torch.isfinite(torch.stack(torch.aminmax(x.detach()))).all()):
            raise ConfigError(
                "x: got NaN or infinite features, expected finite ones. "
                "Check the vision tower's output (float16 overflows in some models: try bfloat16)."
            )
        return x

    def __str__(self) -> str:
        return f"{self.frames}x{self.height}x{self.width}"
