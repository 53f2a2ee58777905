"""Attaching leaves no trace, and nothing passes unreduced without an error."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LogitsProcessor, Qwen2Config

import sttm
from sttm import attach
from sttm.errors import ConfigError, UnreducedVideoError, UnsupportedModelError
from sttm.grid import VideoGrid
from sttm.models import adapter_for, list_models
from sttm.plan import MergePlan

from . import configs
from .families import BY_NAME, FAMILIES, Family, shared_model
from .layouts import Row, Text, Video
from .methods import ContentMerge, KeepEvery, PairMerge
from .oracle import by_hand
from .running import greedy, tolerance

pytestmark = pytest.mark.usefixtures("no_gradients")

ROW: Row = (Text(4), Video(3), Text(5, seed=1))
every_family = pytest.mark.parametrize("family", FAMILIES, ids=lambda f: f.name)


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
        assert attachment.attached
    assert not attachment.attached
    assert torch.equal(greedy(model, inputs).logits, wanted.logits)


@every_family
def test_an_exception_undoes_everything(
    family: Family, unchanged: Callable[[torch.nn.Module], None]
) -> None:
    model, inputs = shared_model(family.name), family.make_inputs(ROW)
    wanted = model(**inputs.tensors).logits
    unchanged(model)
    with pytest.raises(KeyError, match="mine"), attach(model, PairMerge(), layer=1):
        model(**inputs.tensors)
        raise KeyError("mine")
    assert torch.equal(model(**inputs.tensors).logits, wanted)


class Failing:
    """A method with a bug."""

    name = "failing"
    query_aware = False

    def plan(self, x: torch.Tensor, grid: VideoGrid) -> MergePlan:
        raise ZeroDivisionError("in the method")


@every_family
def test_a_failing_method_is_not_hidden_and_the_next_forward_is_sound(
    family: Family, unchanged: Callable[[torch.nn.Module], None]
) -> None:
    model, inputs = shared_model(family.name), family.make_inputs(ROW)
    text = family.make_inputs((Text(9),))
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


@every_family
def test_a_second_attachment_is_refused(
    family: Family, unchanged: Callable[[torch.nn.Module], None]
) -> None:
    model = shared_model(family.name)
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


def test_the_default_layer_is_2_and_published() -> None:
    model = shared_model("llava_onevision")
    with attach(model, PairMerge()) as attachment:
        greedy(model, BY_NAME["llava_onevision"].make_inputs(ROW), 1)
        assert [report.layer for report in attachment.reports] == [2]


def test_models_without_video_are_refused_by_name() -> None:
    text = configs.llava_onevision().text_config
    model = AutoModelForCausalLM.from_config(Qwen2Config(**text.to_dict()))
    with pytest.raises(UnsupportedModelError) as caught:
        attach(model, PairMerge())
    message = str(caught.value)
    assert "Qwen2ForCausalLM" in message
    assert all(family.model_type in message for family in FAMILIES)


def test_video_models_that_are_not_supported_are_refused_by_name() -> None:
    class Instructor(torch.nn.Module):
        config = type("InstructBlipVideoConfig", (), {"model_type": "instructblipvideo"})()

    with pytest.raises(UnsupportedModelError, match="instructblipvideo"):
        attach(Instructor(), PairMerge())
    with pytest.raises(UnsupportedModelError):
        adapter_for(object())


def test_the_list_of_models_names_every_family_under_test() -> None:
    types = {name for adapter in list_models() for name in adapter.model_types}
    assert types >= {family.model_type for family in FAMILIES}
    for family in FAMILIES:
        assert family.model_type in type(adapter_for(shared_model(family.name))).model_types


@every_family
def test_logits_keep_the_length_of_the_input(family: Family) -> None:
    """Labels index the original sequence."""
    model, inputs = shared_model(family.name), family.make_inputs(ROW)
    labels = inputs.tensors["input_ids"].clone()
    labels[:, :-4] = -100
    with attach(model, PairMerge(), layer=1):
        out = model(**inputs.tensors, labels=labels)
    assert out.logits.shape[1] == inputs.length
    targets = labels[0, 1:]
    wanted = torch.nn.functional.cross_entropy(out.logits[0, :-1], targets, ignore_index=-100)
    torch.testing.assert_close(out.loss, wanted)


@every_family
def test_some_logits_of_the_input(family: Family) -> None:
    if "logits_to_keep" in family.broken:
        pytest.skip(f"the unpatched library fails: {family.broken['logits_to_keep']}")
    model, inputs = shared_model(family.name), family.make_inputs(ROW)
    with attach(model, PairMerge(), layer=1):
        out = model(**inputs.tensors)
        last = model(**inputs.tensors, logits_to_keep=3).logits
        some = model(**inputs.tensors, logits_to_keep=torch.tensor([2, -1])).logits
    torch.testing.assert_close(last, out.logits[:, -3:])
    torch.testing.assert_close(some, out.logits[:, [2, -1]])


@every_family
def test_gradients_flow_through_the_merge(family: Family) -> None:
    model, inputs = shared_model(family.name), family.make_inputs(ROW)
    with torch.enable_grad(), attach(model, PairMerge(), layer=1):
        loss = model(**inputs.tensors).logits[0, -1].square().sum()
        embedding = model.get_input_embeddings().weight
        layer = model.get_decoder().layers[2].mlp.down_proj.weight
        gradients = torch.autograd.grad(loss, [embedding, layer])
    assert all(bool(g.isfinite().all()) and bool((g != 0).any()) for g in gradients)


@pytest.mark.parametrize("token", [configs.VIDEO_TOKEN, configs.IMAGE_TOKEN])
@every_family
def test_a_placeholder_among_the_answers_reduces_nothing(family: Family, token: int) -> None:
    """The answer contains the id of a video token: it is a word like any other."""

    class Force(LogitsProcessor):  # type: ignore[misc]
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            forced = torch.full_like(scores, -1e4)
            forced[:, token if input_ids.shape[1] != 7 else 20] = 0.0
            return forced

    model, inputs = shared_model(family.name), family.make_inputs(ROW)
    with attach(model, KeepEvery(), layer=1) as attachment:
        forced = greedy(model, inputs, 5, logits_processor=[Force()])
        assert forced.tokens.tolist() == [[token] * 5]
        assert len(attachment.reports) == 1
    # the same tokens, their embeddings given: nothing to mistake for a video
    dummy = inputs.followed_by(torch.full((1, 4), 20))
    swapped = shared_model(family.name).get_input_embeddings().weight
    kept = swapped[20].clone()
    swapped[20] = swapped[token]
    try:
        hand = by_hand(model, dummy, KeepEvery(), 1, attachment.positions)
    finally:
        swapped[20] = kept
    if 20 not in inputs.tensors["input_ids"]:
        torch.testing.assert_close(
            forced.logits[0], hand.tail(5), atol=tolerance(family.name), rtol=0
        )


@pytest.mark.parametrize("name", ["llava_onevision", "llava_next_video", "qwen2_vl", "qwen3_vl"])
def test_a_video_that_chunked_prefill_splits_is_an_error(name: str) -> None:
    family, model = BY_NAME[name], shared_model(name)
    inputs = family.make_inputs(ROW)
    chunked = {"prefill_chunk_size": 12, "max_new_tokens": 1, "do_sample": False}
    model.generate(**inputs.tensors, **chunked)  # the library itself can
    with attach(model, PairMerge(), layer=1), pytest.raises(UnreducedVideoError, match="chunk"):
        model.generate(**inputs.tensors, **chunked)


@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_vl", "qwen3_vl", "video_llama_3"])
def test_features_from_before_the_attachment_are_an_error(name: str) -> None:
    family, model = BY_NAME[name], shared_model(name)
    tensors = dict(family.make_inputs(ROW).tensors)
    wanted = model(**tensors).logits
    names = [n for n in tensors if n.startswith(("pixel_values", "video_merge"))]
    arguments = {n: tensors.pop(n) for n in names}
    if "video_grid_thw" in tensors:
        arguments["video_grid_thw"] = tensors["video_grid_thw"]
    features = model.model.get_video_features(**arguments, return_dict=True)
    assert torch.equal(model(**tensors, mm_encoder_outputs={"video": features}).logits, wanted)
    with attach(model, PairMerge(), layer=1), pytest.raises(UnreducedVideoError):
        model(**tensors, mm_encoder_outputs={"video": features})
    with attach(model, PairMerge(), layer=1) as attachment:
        features = model.model.get_video_features(**arguments, return_dict=True)
        model(**tensors, mm_encoder_outputs={"video": features})
        assert len(attachment.reports) == 1


@every_family
def test_text_alone_is_not_touched(family: Family) -> None:
    model, inputs = shared_model(family.name), family.make_inputs((Text(9),), (Text(6, seed=1),))
    wanted = greedy(model, inputs)
    with attach(model, KeepEvery(), layer=1) as attachment:
        got = greedy(model, inputs)
        assert attachment.reports == []
    assert torch.equal(got.logits, wanted.logits)


@pytest.mark.slow
def test_a_model_compiled_before_is_reduced_too() -> None:
    family = BY_NAME["video_llama_3"]  # the one that compiles fastest
    model, inputs = family.make_model(layers=2), family.make_inputs(ROW)
    compiled = torch.compile(model, backend="eager")
    plain = compiled(**inputs.tensors).logits
    with attach(model, PairMerge(), layer=1) as attachment:
        got = compiled(**inputs.tensors).logits
        assert [report.tokens_out for report in attachment.reports] == [
            -(-report.tokens_in // 2) for report in attachment.reports
        ]
        wanted = model(**inputs.tensors).logits
    torch.testing.assert_close(got, wanted, atol=2e-4, rtol=0)
    assert not torch.allclose(got, plain, atol=0.01)
    torch.testing.assert_close(compiled(**inputs.tensors).logits, plain, atol=2e-4, rtol=0)
    torch._dynamo.reset()


@pytest.mark.parametrize("layer", [0, 1, 3])
@every_family
def test_hidden_states_and_attentions_have_their_lengths(family: Family, layer: int) -> None:
    model, inputs = shared_model(family.name, "eager"), family.make_inputs(ROW)
    with attach(model, PairMerge(), layer=layer) as attachment:
        out = model(**inputs.tensors, output_hidden_states=True, output_attentions=True)
        report = attachment.reports[0]
    short = inputs.length - report.tokens_in + report.tokens_out
    lengths = [state.shape[1] for state in out.hidden_states]
    assert len(lengths) == configs.LAYERS + 1
    # the library records what enters layer 0 behind the hooks, and what leaves the other layers
    full = layer + 1 if layer else 0
    assert lengths[:full] == [inputs.length] * full
    assert set(lengths[full:-1]) <= {short}
    assert lengths[-1] in (inputs.length, short)
    maps = [a.shape[-2:] for a in out.attentions if a is not None]
    assert set(maps) <= {(inputs.length, inputs.length), (short, short)}


@every_family
def test_reports_say_what_was_done(family: Family) -> None:
    frames = 4 if family.ragged else 3
    rows: tuple[Row, ...] = (
        (Text(3), Video(3), Text(36, seed=1), Video(frames, seed=2), Text(4, seed=2)),
        (Text(4), Video(3, seed=5), Text(5, seed=1)),
    )
    model, inputs = shared_model(family.name), family.make_inputs(*rows)
    with attach(model, ContentMerge(), layer=2, positions="survived") as attachment:
        greedy(model, inputs, 2)
        reports = list(attachment.reports)
        greedy(model, family.make_inputs((Text(8),)), 2)
    assert [r.grid for r in reports] == [v.grid for row in inputs.videos for v in row]
    for report in reports:
        assert isinstance(report, sttm.VideoReport)
        assert (report.layer, report.positions) == (2, "survived")
        assert (report.tokens_in, report.tokens_out) == (report.plan.num_in, report.plan.num_out)
        assert report.tokens_in == report.grid.num_tokens
        assert 0 < report.tokens_out < report.tokens_in
        assert report.retention == report.tokens_out / report.tokens_in
        assert report.milliseconds >= 0.0
    assert [r.tokens_out for r in attachment.reports] == [r.tokens_out for r in reports]
