"""Attaching leaves no trace."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch

from sttm import attach, get_method
from sttm.errors import ConfigError
from sttm.methods import Method, VideoFeatures
from sttm.plan import MergePlan

from . import configs
from .families import BY_NAME, Family, every_family, shared_model, unlike_families
from .layouts import Row, Text, Video
from .methods import PairMerge
from .oracle import by_hand
from .running import greedy, tolerance

pytestmark = pytest.mark.usefixtures("no_gradients")

ROW: Row = (Text(4), Video(3), Text(5, seed=1))
AT_INPUT = ("dycoke", "dycoke1", "evs", "vidcom2", "fastvid", "holitom", "prunevid", "visionzip")


def fingerprint(model: torch.nn.Module) -> dict[str, Any]:
    """Everything that an attachment could leave behind in any module."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute.endswith("_hooks") or attribute.startswith("_forward_"):
                found[f"{name}.{attribute}"] = len(value) if hasattr(value, "__len__") else value
            elif attribute != "rope_deltas":  # the library's own memory of the latest prompt
                found[f"{name}.{attribute}"] = id(value)
        found[f"{name}.class"] = type(module)
        found[f"{name}.call"] = (type(module).forward, type(module).__call__)
    return found


@pytest.fixture
def unchanged() -> Iterator[Callable[[torch.nn.Module], None]]:
    """Remember models at the start of a test; they must be the same at its end."""
    before: list[tuple[torch.nn.Module, dict[str, Any]]] = []
    yield lambda model: before.append((model, fingerprint(model)))
    assert before
    for model, wanted in before:
        got = fingerprint(model)
        assert {key: got.get(key) for key in wanted.keys() | got.keys()} == wanted


@every_family
def test_the_end_of_the_block_undoes_everything(
    family: Family, unchanged: Callable[[torch.nn.Module], None]
) -> None:
    model, inputs = shared_model(family.name), family.make_inputs(ROW)
    wanted = greedy(model, inputs)
    unchanged(model)
    before = fingerprint(model)
    with attach(model, PairMerge(), layer=1) as attachment:
        assert fingerprint(model) != before
        assert not torch.equal(greedy(model, inputs).logits, wanted.logits)
    assert not attachment.attached
    assert torch.equal(greedy(model, inputs).logits, wanted.logits)


@unlike_families
def test_an_exception_undoes_everything(
    family: Family, unchanged: Callable[[torch.nn.Module], None]
) -> None:
    model, inputs = shared_model(family.name), family.make_inputs(ROW)
    wanted = model(**inputs.tensors).logits
    unchanged(model)

    def use(key: str) -> None:
        with attach(model, PairMerge(), layer=1):
            model(**inputs.tensors)
            raise KeyError(key)

    with pytest.raises(KeyError, match="mine"):
        use("mine")
    assert torch.equal(model(**inputs.tensors).logits, wanted)


class Failing(Method):
    """A method with a bug."""

    name: ClassVar[str] = "failing"

    def plan(self, video: VideoFeatures) -> MergePlan:
        raise ZeroDivisionError("in the method")


@unlike_families
def test_a_failing_method_is_not_hidden_and_the_next_forward_is_sound(
    family: Family, unchanged: Callable[[torch.nn.Module], None]
) -> None:
    model, inputs = shared_model(family.name), family.make_inputs(ROW)
    text = family.make_inputs((Text(9),))
    model(**inputs.tensors)  # the library sets hooks of its own
    wanted = model(**text.tensors).logits
    unchanged(model)
    with attach(model, Failing(), layer=1):
        with pytest.raises(ZeroDivisionError, match="in the method"):
            model(**inputs.tensors)
        with pytest.raises(ZeroDivisionError, match="in the method"):
            greedy(model, inputs)
        assert torch.equal(model(**text.tensors).logits, wanted)
    with attach(model, PairMerge(), layer=1):
        got = greedy(model, inputs, 1).logits[0]
    positions = "survived" if family.rope == "mrope" else "reassigned"
    hand = by_hand(model, inputs, PairMerge(), 1, positions).tail(1)
    torch.testing.assert_close(got, hand, atol=tolerance(family.name), rtol=0)


def test_detaching_twice_is_harmless(unchanged: Callable[[torch.nn.Module], None]) -> None:
    model = shared_model("qwen2_vl")
    unchanged(model)
    attachment = attach(model, PairMerge())
    attachment.detach()
    attachment.detach()
    with attach(model, PairMerge()) as second:
        attachment.detach()
        assert second.attached
        greedy(model, BY_NAME["qwen2_vl"].make_inputs(ROW), 1)
        assert len(second.reports) == 1
        second.detach()


def test_the_users_own_hooks_and_wrappers_stay(
    unchanged: Callable[[torch.nn.Module], None],
) -> None:
    """Also when they came in between, and are taken off in another order."""
    family = BY_NAME["qwen2_vl"]
    model, inputs = family.make_model(), family.make_inputs(ROW)
    unchanged(model)
    seen: list[str] = []
    layer = model.get_decoder().layers[1]
    first = layer.register_forward_pre_hook(lambda *_: seen.append("before"))
    attachment = attach(model, PairMerge(), layer=1)
    second = layer.register_forward_pre_hook(lambda *_: seen.append("within"))
    greedy(model, inputs, 1)
    attachment.detach()
    greedy(model, inputs, 1)
    first.remove()
    second.remove()
    assert seen == ["before", "within"] * 2


def test_an_encoder_that_the_user_replaced_is_given_back() -> None:
    family = BY_NAME["qwen2_vl"]
    model, inputs = family.make_model(), family.make_inputs(ROW)
    original, calls = model.model.get_video_features, []

    def mine(pixel_values_videos: torch.Tensor, video_grid_thw: torch.Tensor, **more: Any) -> Any:
        calls.append(len(pixel_values_videos))
        return original(pixel_values_videos, video_grid_thw, **more)

    model.model.get_video_features = mine
    with attach(model, PairMerge(), layer=1) as attachment:
        model(**inputs.tensors)
        assert len(attachment.reports) == 1
    assert model.model.get_video_features is mine
    assert len(calls) == 1


def test_a_second_attachment_is_refused(unchanged: Callable[[torch.nn.Module], None]) -> None:
    model = shared_model("qwen2_vl")
    unchanged(model)
    with attach(model, PairMerge(), layer=1) as first:
        before = fingerprint(model)
        with pytest.raises(ConfigError, match="detach"):
            attach(model, PairMerge(), layer=2)
        assert fingerprint(model) == before
        assert first.attached


@pytest.mark.parametrize("layer", [-1, configs.LAYERS, 99, 1.0, True])
def test_a_layer_out_of_range_is_refused(
    layer: Any, unchanged: Callable[[torch.nn.Module], None]
) -> None:
    model = shared_model("qwen2_vl")
    unchanged(model)
    with pytest.raises(ConfigError, match="layer"):
        attach(model, PairMerge(), layer=layer)


def test_an_unknown_policy_is_refused(unchanged: Callable[[torch.nn.Module], None]) -> None:
    model = shared_model("qwen2_vl")
    unchanged(model)
    with pytest.raises(ConfigError, match=r"survived.*reassigned"):
        attach(model, PairMerge(), positions="renumbered")


@pytest.mark.parametrize(
    ("method", "layer"),
    [
        (get_method("sttm", keep=0.5), 2),
        (get_method("tome", keep=0.5), 2),
        (get_method("fastv", keep=0.5), 2),
        (get_method("framefusion", keep=0.5), 1),
        (get_method("octree", keep=0.5), 2),
        *((get_method(name, keep=0.5), 0) for name in AT_INPUT),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_the_default_layer_is_that_of_the_methods_authors(method: Any, layer: int) -> None:
    model = shared_model("llava_onevision")
    with attach(model, method) as attachment:
        assert attachment.layer == layer
    with attach(model, method, layer=1) as attachment:
        assert attachment.layer == 1


def test_a_default_layer_is_at_most_the_last() -> None:
    @dataclass(frozen=True)
    class Late(PairMerge):
        default_layer: ClassVar[int | None] = 99

    model = shared_model("llava_onevision")
    with attach(model, Late()) as attachment:
        assert attachment.layer == len(model.get_decoder().layers) - 1


def test_the_default_layer_is_2_and_published() -> None:
    model = shared_model("llava_onevision")
    with attach(model, PairMerge()) as attachment:
        greedy(model, BY_NAME["llava_onevision"].make_inputs(ROW), 1)
        assert [report.layer for report in attachment.reports] == [2]


class Planning(Method):
    """Gives any plan."""

    name: ClassVar[str] = "planning"

    def __init__(self, plan: Any) -> None:
        self.given = plan

    def plan(self, video: VideoFeatures) -> MergePlan:
        plan: MergePlan = self.given(video.grid.num_tokens)
        return plan


def parts(group: list[int], anchor: list[int]) -> Callable[[int], MergePlan]:
    """Make a plan of wrong parts past ``from_groups``: the first labels, then ones of group 0."""

    def plan(count: int) -> MergePlan:
        labels = torch.tensor(group + [0] * (count - len(group)))
        return MergePlan(labels, torch.full((count,), 0.5), torch.tensor(anchor))

    return plan


@pytest.mark.parametrize(
    "plan",
    [
        parts([0, 1], [1, 0]),
        parts([0, 1], [0, 900]),
        parts([0, -5], [0]),
        parts([0], [0, 1, 2]),
        parts([0], [0]),
        lambda count: MergePlan.identity(count + 1),
        lambda count: None,
    ],
)
def test_plans_that_are_none_do_not_reach_the_model(plan: Callable[[int], Any]) -> None:
    family = BY_NAME["qwen2_vl"]
    with attach(shared_model("qwen2_vl"), Planning(plan)), pytest.raises(ConfigError, match="lan"):
        shared_model("qwen2_vl")(**family.make_inputs(ROW).tensors)


def test_what_is_no_method_is_refused_at_once() -> None:
    class OnlyPlan:
        def plan(self, video: VideoFeatures) -> MergePlan:
            return MergePlan.identity(video.grid.num_tokens)

    class Nameless(Method):
        def plan(self, video: VideoFeatures) -> MergePlan:
            return MergePlan.identity(video.grid.num_tokens)

    wrong: list[Any] = [PairMerge, OnlyPlan(), Nameless(), None, "sttm", lambda video: None]
    for method in wrong:
        with pytest.raises(ConfigError, match=r"method: got .* expected"):
            attach(shared_model("qwen2_vl"), method)
