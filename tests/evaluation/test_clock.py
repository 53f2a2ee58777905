import time

import torch

from sttm.evaluation.clock import FirstForward


class Slow(torch.nn.Module):
    """Takes as long as it is told to."""

    def forward(self, seconds: float) -> float:
        time.sleep(seconds)
        return seconds


def test_only_the_first_forward_inside_counts() -> None:
    model = Slow()
    model(0.0)
    with FirstForward(model) as clock:
        assert clock.seconds == 0
        time.sleep(0.05)
        model(0.02)
        model(0.2)
    model(0.2)
    assert 0.02 <= clock.seconds < 0.05 + 0.2
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
