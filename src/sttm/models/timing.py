"""The clock that all measured times are read from."""

import time

import torch


def now(device: torch.device) -> float:
    """Wall clock in seconds, after all work on ``device``."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
