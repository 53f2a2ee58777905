import pytest
import torch

from sttm.evaluation import clock
from sttm.evaluation.clock import FirstForward


class Watch:
    """A clock that a test moves by hand."""

    now = 100.0

    def perf_counter(self) -> float:
        return self.now


class Slow(torch.nn.Module):
    """Takes as long as it is told to."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.watch = watch

    def forward(self, seconds: float) -> None:
        self.watch.now += seconds


def test_only_the_first_forward_inside_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch()
    monkeypatch.setattr(clock, "time", watch)
    model = Slow(watch)
    model(1.0)
    with FirstForward(model) as timed:
        assert timed.seconds == 0
        watch.now += 5.0
        model(2.0)
        model(20.0)
    model(20.0)
    assert timed.seconds == 2.0
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
