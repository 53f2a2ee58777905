"""What an attached model returns beside the answer: logits, losses, states, reports."""

from typing import Any

import pytest
import torch
from transformers import LogitsProcessor

import sttm
from sttm import attach

from . import configs
from .families import BY_NAME, Family, every_family, shared_model, shared_out
from .layouts import Row, Text, Video
from .methods import ContentMerge, KeepEvery, PairMerge
from .oracle import by_hand
from .running import greedy, tolerance

pytestmark = pytest.mark.usefixtures("no_gradients")

ROW: Row = (Text(4), Video(3), Text(5, seed=1))


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
def test_gradients_are_those_by_hand(family: Family) -> None:
    """Of a model in ``eval()``, down to the pixels' encoder and the words."""
    model, inputs = shared_model(family.name), family.make_inputs(ROW)
    weights = {
        "words": model.get_input_embeddings().weight,
        "below": model.get_decoder().layers[0].mlp.down_proj.weight,
        "above": model.get_decoder().layers[2].mlp.down_proj.weight,
        "encoder": next(p for n, p in model.named_parameters() if "vis" in n and p.ndim > 1),
    }
    assert not model.training
    with torch.enable_grad():
        with attach(model, PairMerge(), layer=1) as attachment:
            got = model(**inputs.tensors).logits[0, -1].square().sum()
            positions = attachment.positions
        hand = by_hand(model, inputs, PairMerge(), 1, positions).logits[-1].square().sum()
        gradients, wanted = (torch.autograd.grad(x, list(weights.values())) for x in (got, hand))
    for name, one, two in zip(weights, gradients, wanted, strict=True):
        scale = float(two.abs().max())
        assert scale > 0, name
        torch.testing.assert_close(one / scale, two / scale, atol=5e-4, rtol=0, msg=name)


@shared_out("token", [configs.VIDEO_TOKEN, configs.IMAGE_TOKEN])
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
    compiled: Any = torch.compile(model, backend="eager")
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


@shared_out("layer", [0, 1, 3])
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
