"""Fixtures and settings that every test shares."""

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

torch.set_num_threads(1)
_FILLERS: dict[torch.dtype, float | int] = {
    **dict.fromkeys((torch.float64, torch.float32, torch.float16, torch.bfloat16), torch.nan),
    **{dtype: torch.iinfo(dtype).min for dtype in (torch.int64, torch.int32)},
}


@pytest.fixture(scope="session", autouse=True)
def _untested_release() -> None:
    """Take the one warning about a new transformers here, whichever test would attach first."""
    from sttm.models.versions import warn_if_untested

    with warnings.catch_warnings(record=True):
        warn_if_untested()


@pytest.fixture(scope="module", autouse=True)
def _poisoned_memory(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fill new memory with NaN, or the least integer: what reads it before writing it is found.

    In the tests of the code that asks for such memory; where models are built it would be theirs.
    """
    if request.path.parent.name not in ("kernels", "methods", "ops"):
        yield
        return
    with torch.device("cpu"):
        torch.zeros(1)  # torch now knows the functions that such blocks change, by identity
    with pytest.MonkeyPatch.context() as patch:
        for place, name in ((torch, "empty"), (torch, "empty_like"), (torch.Tensor, "new_empty")):
            patch.setattr(place, name, _poisoned(getattr(place, name)))
        yield


def _poisoned(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(make)
    def filled(*args: Any, **kwargs: Any) -> torch.Tensor:
        made = make(*args, **kwargs)
        if type(made) is torch.Tensor and made.device.type == "cpu" and made.dtype in _FILLERS:
            with torch.no_grad():
                made.fill_(_FILLERS[made.dtype])
        return made

    return filled
