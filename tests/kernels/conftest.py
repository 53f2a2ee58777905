"""The kernels run on a CUDA device, or here in Triton's interpreter if that was asked for.

Triton reads ``TRITON_INTERPRET`` while it is imported, so that `test_interpreter` starts the other
tests of this folder in a process of their own.
"""

import os

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
collect_ignore = [] if INTERPRETED or torch.cuda.is_available() else ["test_kernels.py"]


@pytest.fixture
def device() -> torch.device:
    return torch.device("cpu" if INTERPRETED else "cuda")
