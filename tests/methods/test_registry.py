from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

from sttm.errors import ConfigError, UnknownNameError
from sttm.grid import VideoGrid
from sttm.methods import (
    STTM,
    Method,
    TokenPruner,
    VideoFeatures,
    get_method,
    list_methods,
    register,
    registry,
)
from sttm.plan import MergePlan


@pytest.fixture
def clean_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))


def test_methods_are_listed_with_a_sentence() -> None:
    infos = {info.name: info for info in list_methods()}
    assert {"identity", "random", "sttm"} <= set(infos)
    assert list(infos) == sorted(infos)
    assert all(info.summary for info in infos.values())
    assert infos["sttm"].query_aware is False


def test_a_method_is_built_by_name() -> None:
    assert get_method("sttm", keep=0.3) == STTM(keep=0.3)


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'sttm'"):
        get_method("stm")


def test_an_unknown_option_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"Did you mean 'spatial_threshold'.*Accepted: keep"):
        get_method("sttm", spatial_treshold=0.8)
    with pytest.raises(ConfigError, match="Accepted: none"):
        get_method("identity", keep=0.8)


@pytest.mark.parametrize("number", [2**63, -(10**30), 10**5000], ids=range(3))
def test_numbers_that_no_tensor_holds_are_refused(number: int) -> None:
    with pytest.raises(ConfigError, match=r"method 'random': got seed of \d+ bits"):
        get_method("random", keep=0.5, seed=number)


def test_a_missing_option_is_named() -> None:
    with pytest.raises(ConfigError, match="expected a value for keep"):
        get_method("random")


@pytest.mark.usefixtures("clean_registry")
def test_a_new_method_can_be_registered_once() -> None:
    @dataclass(frozen=True)
    class Other(Method):
        """Do something else."""

        name: ClassVar[str] = "other"
        query_aware: ClassVar[bool] = True

        def plan(self, video: VideoFeatures) -> MergePlan:
            return MergePlan.identity(video.grid.num_tokens)

    assert register(Other) is Other
    assert register(Other) is Other
    assert isinstance(get_method("other"), Other)
    assert next(i for i in list_methods() if i.name == "other").query_aware

    class Third(Other):
        """Take the name again."""

    with pytest.raises(ConfigError, match="has this name"):
        register(Third)


@pytest.mark.parametrize(("keep", "count"), [(0.3, 7), (5, 5), (99, 24), (1e-6, 1)])
def test_random_tokens_are_counted_exactly(keep: Any, count: int) -> None:
    grid = VideoGrid(2, 3, 4)
    x = torch.randn(24, 3, generator=torch.Generator().manual_seed(0))
    plan = get_method("random", keep=keep).plan(VideoFeatures(x, grid)).check()
    assert plan.num_out == count
    assert torch.equal(plan.apply(x), x[plan.anchor])
    again = get_method("random", keep=keep).plan(VideoFeatures(x + 1, grid))
    assert torch.equal(again.anchor, plan.anchor)


def test_seeds_choose_other_tokens() -> None:
    grid = VideoGrid(4, 4, 4)
    x = torch.zeros(64, 2)
    anchors = {
        tuple(get_method("random", keep=9, seed=s).plan(VideoFeatures(x, grid)).anchor.tolist())
        for s in range(4)
    }
    assert len(anchors) == 4


@pytest.mark.parametrize("options", [{"keep": 0.0}, {"keep": 0.5, "seed": -1}])
def test_random_refuses_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        get_method("random", **options)


def test_the_identity_keeps_every_token_and_checks_its_input() -> None:
    grid = VideoGrid(1, 2, 2)
    assert get_method("identity").plan(VideoFeatures(torch.zeros(4, 2), grid)).num_out == 4
    with pytest.raises(ConfigError, match="shape"):
        get_method("identity").plan(VideoFeatures(torch.zeros(3, 2), grid))


def test_a_pruner_that_keeps_another_number_is_refused() -> None:
    @dataclass(frozen=True)
    class Short(TokenPruner):
        name: ClassVar[str] = "short"

        def kept(self, video: VideoFeatures, count: int) -> torch.Tensor:
            return torch.arange(count - 1)

    with pytest.raises(ConfigError, match="as many tokens as the budget has"):
        Short(4).plan(VideoFeatures(torch.ones(6, 2), VideoGrid(1, 2, 3)))


@pytest.mark.parametrize("layer", [-1, 1.5, True, "first"])
def test_a_default_layer_is_checked(layer: Any) -> None:
    class Odd(TokenPruner):
        name: ClassVar[str] = "odd"
        default_layer: ClassVar[Any] = layer

    with pytest.raises(ConfigError, match=r"Odd\.default_layer: got"):
        register(Odd)
