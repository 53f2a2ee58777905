"""Triton kernels for CUDA devices: each replaces several operations of torch, none replaces all.

Nothing here knows of plans or pyramids; the modules beside this one import Triton, so they are
imported where `use_kernels` says yes. Same formulas, same order of addition as in torch:
docs/performance.md says what is equal to the bit and what up to rounding.
"""

import os
import warnings
from functools import lru_cache
from importlib.util import find_spec

import torch

# The environment variable that turns the kernels off where it is "0".
SWITCH = "STTM_TRITON"
# Nothing older has been thought of: bfloat16 is native from here on.
_CAPABILITY = (8, 0)


def use_kernels(device: torch.device) -> bool:
    """Tell whether Triton does the work on this device; elsewhere, and while compiling, torch does.

    Args:
        device: where the tensors are. Never true for a CPU.
    """
    if device.type != "cuda" or os.environ.get(SWITCH, "1") == "0":
        return False
    return not torch.compiler.is_compiling() and _run(device)


@lru_cache(maxsize=64)
def _run(device: torch.device) -> bool:
    """Ask every kernel something known: Triton may lack its C compiler, or not know the device."""
    if find_spec("triton") is None or torch.cuda.get_device_capability(device) < _CAPABILITY:
        return False
    try:
        from sttm.kernels.known_answers import wrong_kernels

        wrong = wrong_kernels(device)
        problem = f"wrong answers of {', '.join(wrong)}" if wrong else ""
    except Exception as error:  # noqa: BLE001 - whatever Triton, its compiler or driver raise
        problem = str(error)
    if problem:
        warnings.warn(
            f"sttm: Triton's kernels do not run on {device} ({problem}), so torch does their work. "
            f"Set {SWITCH}=0 to say that this is wanted.",
            stacklevel=2,
        )
    return not problem
