from typing import Any

import pytest
import torch

from sttm.errors import ConfigError
from sttm.grid import VideoGrid

GRID = VideoGrid(2, 3, 4)


def test_a_grid_counts_its_tokens() -> None:
    assert (GRID.num_tokens, GRID.tokens_per_frame, str(GRID)) == (24, 12, "2x3x4")


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "4", None])
@pytest.mark.parametrize("name", ["frames", "height", "width"])
def test_a_side_must_be_a_positive_integer(name: str, value: Any) -> None:
    sides: dict[str, Any] = {"frames": 1, "height": 1, "width": 1, name: value}
    with pytest.raises(ConfigError, match=name):
        VideoGrid(**sides)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_fitting_features_are_returned_as_they_are(dtype: torch.dtype) -> None:
    x = torch.zeros(24, 5, dtype=dtype)
    assert GRID.check(x) is x


@pytest.mark.parametrize("shape", [(24,), (23, 4), (2, 12, 4), (24, 0), (1, 24, 4)])
def test_the_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError, match=r"shape .* expected \(24, C\)"):
        GRID.check(torch.zeros(shape))


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_the_wrong_dtype_is_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ConfigError, match="dtype"):
        GRID.check(torch.zeros(24, 4).to(dtype))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_one_entry_that_is_not_finite_is_refused(bad: float, dtype: torch.dtype) -> None:
    x = torch.zeros(24, 40, dtype=dtype)
    x[17, 31] = bad
    with pytest.raises(ConfigError, match="NaN or infinite"):
        GRID.check(x)


def test_something_else_than_a_tensor_is_refused() -> None:
    nothing: Any = [[0.0]] * 24
    with pytest.raises(ConfigError, match="got list"):
        GRID.check(nothing)
