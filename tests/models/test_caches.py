"""Every cache that works at all gives the same answer, and one prefill serves many questions."""

from itertools import product
from typing import Any

import pytest
import torch
from transformers import DynamicCache, StaticCache

from sttm.attachment import attach
from sttm.errors import ConfigError, UnsupportedModelError

from . import configs
from .families import (
    BY_NAME,
    Family,
    Inputs,
    every_family,
    shared_model,
    shared_out,
    unlike_families,
)
from .layouts import Row, Text, Video
from .methods import ContentMerge, KeepEvery, PairMerge
from .names import with_cache
from .reuse import ask, new_cache, prefill, rotary_positions
from .running import assert_same, greedy, tolerance

pytestmark = pytest.mark.usefixtures("no_gradients")

POLICIES = ["survived", "reassigned", "merged"]
ROWS: tuple[Row, ...] = (
    (Text(4), Video(3), Text(3, seed=1)),
    (Text(2, seed=2), Video(3, seed=3), Text(2, seed=4)),
)
QUESTIONS = [torch.tensor([[21, 33, 47, 52]]), torch.tensor([[90, 61]])]
every_policy = shared_out("positions", POLICIES)
every_layer_and_policy = shared_out("layer,positions", list(product([0, 2], POLICIES)))


def skip_broken(family: Family, what: str) -> None:
    if what in family.broken:
        pytest.skip(f"the unpatched library fails: {family.broken[what]}")


@shared_out(
    "rows,layer,positions",
    [
        (1, 0, "survived"),
        (1, 2, "reassigned"),
        (2, 0, "reassigned"),
        (2, 2, "survived"),
        (2, 2, "merged"),
    ],
)
def test_static_cache(family: Family, rows: int, layer: int, positions: str) -> None:
    model, inputs = shared_model(family.name), family.make_inputs(*ROWS[:rows])
    with attach(model, ContentMerge(), layer=layer, positions=positions):
        wanted = greedy(model, inputs)
        cache = StaticCache(config=model.config.get_text_config(), max_cache_len=inputs.length + 8)
        got = greedy(model, inputs, **with_cache(cache), disable_compile=True)
        assert_same(got, wanted, tolerance(family.name))
        named = greedy(model, inputs, cache_implementation="static", disable_compile=True)
        assert_same(named, wanted, tolerance(family.name))


@shared_out("layer", [0, 2])
def test_the_users_own_dynamic_cache(family: Family, layer: int) -> None:
    model, inputs = shared_model(family.name), family.make_inputs(*ROWS)
    with attach(model, ContentMerge(), layer=layer):
        wanted = greedy(model, inputs)
        got = greedy(model, inputs, **with_cache(new_cache(model)))
        assert torch.equal(got.logits, wanted.logits)
        skip_broken(family, "bare cache")
        bare = greedy(model, inputs, **with_cache(DynamicCache()))
        assert torch.equal(bare.logits, wanted.logits)


@every_layer_and_policy
def test_questions_on_copies_of_one_prefill(family: Family, layer: int, positions: str) -> None:
    model, inputs = shared_model(family.name), family.make_inputs(ROWS[0])
    with attach(model, KeepEvery(), layer=layer, positions=positions):
        prefix = prefill(model, inputs, new_cache(model))
        for question in QUESTIONS:
            got = ask(model, prefix.copy(), question)
            wanted = greedy(model, inputs.followed_by(question), 5)
            assert_same(got, wanted, tolerance(family.name))


@every_policy
def test_questions_on_a_padded_batch(family: Family, positions: str) -> None:
    model, inputs = shared_model(family.name), family.make_inputs(*ROWS)
    question = torch.cat([QUESTIONS[0], QUESTIONS[0].flip(1)])
    with attach(model, ContentMerge(), layer=1, positions=positions):
        prefix = prefill(model, inputs, new_cache(model))
        got = ask(model, prefix, question)
        wanted = greedy(model, inputs.followed_by(question), 5)
    assert_same(got, wanted, tolerance(family.name))


@every_layer_and_policy
def test_another_question_after_a_crop(family: Family, layer: int, positions: str) -> None:
    skip_broken(family, "crop")
    model, inputs = shared_model(family.name), family.make_inputs(ROWS[0])
    with attach(model, PairMerge(), layer=layer, positions=positions):
        prefix = prefill(model, inputs, new_cache(model))
        for question in (*QUESTIONS, QUESTIONS[0]):
            got = ask(model, prefix, question)
            wanted = greedy(model, inputs.followed_by(question), 5)
            assert_same(got, wanted, tolerance(family.name))
            prefix.cache.crop(-(question.shape[1] + 5 - 1))
            assert prefix.cache.get_seq_length() == inputs.length


@every_layer_and_policy
def test_the_text_behind_a_video_can_be_cropped(family: Family, layer: int, positions: str) -> None:
    """Also where it came in the same forward as the video; assisted decoding needs that."""
    skip_broken(family, "crop")
    model, inputs = shared_model(family.name), family.make_inputs(ROWS[0])
    short = family.make_inputs(ROWS[0][:2])
    with attach(model, PairMerge(), layer=layer, positions=positions):
        prefix = prefill(model, inputs, new_cache(model))
        prefix.cache.crop(-(inputs.length - short.length))
        got = ask(model, prefix.cut(short.length), QUESTIONS[0])
        wanted = greedy(model, short.followed_by(QUESTIONS[0]), 5)
    assert_same(got, wanted, tolerance(family.name))


@shared_out("layer", [0, 2])
def test_a_reduced_video_cannot_be_cropped(family: Family, layer: int) -> None:
    """The refusal comes before any layer is cut: the cache stays good."""
    skip_broken(family, "crop")
    model, inputs = shared_model(family.name), family.make_inputs(ROWS[0])
    with attach(model, PairMerge(), layer=layer):
        prefix = prefill(model, inputs, new_cache(model))
        wanted = ask(model, prefix.copy(), QUESTIONS[0])
        behind = inputs.length - int(inputs.videos[0][0].index[-1])
        with pytest.raises(UnsupportedModelError, match="crop"):
            prefix.cache.crop(-behind)
        lengths = [prefix.cache.get_seq_length(i) for i in range(configs.LAYERS)]
        assert lengths == [inputs.length] * configs.LAYERS
        assert_same(ask(model, prefix, QUESTIONS[0]), wanted, 0.0)


@every_policy
def test_two_questions_as_a_batch(family: Family, positions: str) -> None:
    skip_broken(family, "repeat")
    model, inputs = shared_model(family.name), family.make_inputs(ROWS[0])
    questions = [QUESTIONS[0], QUESTIONS[0].flip(1)]
    with attach(model, PairMerge(), layer=1, positions=positions):
        prefix = prefill(model, inputs, new_cache(model)).repeated(2)
        got = ask(model, prefix, torch.cat(questions))
        for row, question in enumerate(questions):
            wanted = greedy(model, inputs.followed_by(question), 5)
            assert_same(got.row(row), wanted, tolerance(family.name))


@unlike_families
def test_rows_of_a_padded_prefill_are_repeated_with_their_padding(family: Family) -> None:
    skip_broken(family, "repeat")
    model, inputs = shared_model(family.name), family.make_inputs(*ROWS)
    questions = torch.cat([QUESTIONS[0], QUESTIONS[0].flip(1)] * 2)
    with attach(model, ContentMerge(), layer=1, positions="reassigned"):
        prefix = prefill(model, inputs, new_cache(model)).repeated(2)
        got = ask(model, prefix, questions)
        for row in range(4):
            single = family.make_inputs(ROWS[row // 2]).followed_by(questions[row : row + 1])
            assert_same(got.row(row), greedy(model, single, 5), tolerance(family.name))


def chunk(family: Family, row: Row, positions: torch.Tensor, past: int) -> tuple[Inputs, Any]:
    """The end of a prompt as its own inputs, with the mask and positions of the whole."""
    inputs = family.make_inputs(row)
    more = {
        "attention_mask": torch.ones(1, past + inputs.length, dtype=torch.long),
        "position_ids": positions[..., past:],
    }
    return inputs, more


@every_layer_and_policy
def test_a_second_video_into_the_same_cache(family: Family, layer: int, positions: str) -> None:
    """First prompt, then a second one with a video of its own, equals both in one prompt."""
    model = shared_model(family.name)
    first: Row = (Text(4), Video(3), Text(36, seed=1))
    second: Row = (Text(3, seed=5), Video(3, seed=6), Text(3, seed=7))
    whole, begin = family.make_inputs(first + second), family.make_inputs(first)
    ids = rotary_positions(model, whole)
    rest, more = chunk(family, second, ids, begin.length)
    with attach(model, ContentMerge(), layer=layer, positions=positions) as attachment:
        wanted = greedy(model, whole, 4)
        counts = [report.tokens_out for report in attachment.reports]
        cache = new_cache(model)
        model(**begin.tensors, **with_cache(cache), use_cache=True)
        got = model(**{**rest.tensors, **more}, **with_cache(cache), use_cache=True)
        torch.testing.assert_close(
            got.logits[:, -1], wanted.logits[:, 0], atol=tolerance(family.name), rtol=0
        )
        assert [report.tokens_out for report in attachment.reports] == counts[1:]
        # and on: decode by single steps
        last = ids[..., -1:]
        for step in range(3):
            more["attention_mask"] = torch.ones(1, whole.length + step + 1, dtype=torch.long)
            got = model(
                input_ids=wanted.tokens[:, step : step + 1],
                attention_mask=more["attention_mask"],
                position_ids=last + 1 + step,
                **with_cache(cache),
                use_cache=True,
            )
            torch.testing.assert_close(
                got.logits[:, -1], wanted.logits[:, step + 1], atol=tolerance(family.name), rtol=0
            )


@pytest.mark.parametrize("positions", POLICIES)
@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_vl", "qwen3_vl"])
def test_a_cache_travels_to_a_new_attachment(name: str, positions: str) -> None:
    """Detach, attach the same again, and ask; without an attachment the cache refuses."""
    family, model = BY_NAME[name], shared_model(name)
    inputs = family.make_inputs(ROWS[0])
    with attach(model, PairMerge(), layer=1, positions=positions):
        prefix = prefill(model, inputs, new_cache(model))
        wanted = ask(model, prefix.copy(), QUESTIONS[0])
    with pytest.raises(UnsupportedModelError, match="attach"):
        ask(model, prefix.copy(), QUESTIONS[0])
    with attach(model, PairMerge(), layer=1, positions=positions):
        assert_same(ask(model, prefix.copy(), QUESTIONS[0]), wanted, 0.0)
    with (
        attach(model, PairMerge(), layer=3, positions=positions),
        pytest.raises((ConfigError, UnsupportedModelError)),
    ):
        ask(model, prefix.copy(), QUESTIONS[0])


@every_family
def test_prompt_lookup_decoding_is_greedy(family: Family) -> None:
    skip_broken(family, "crop")
    model, inputs = shared_model(family.name), family.make_inputs(ROWS[0])
    with attach(model, PairMerge(), layer=1):
        wanted = greedy(model, inputs, 8).tokens
        repeats = inputs.followed_by(torch.cat([wanted[:, :6], wanted[:, :2]], 1))
        plain = greedy(model, repeats, 8).tokens
        looked_up = model.generate(
            **repeats.tensors, do_sample=False, max_new_tokens=8, prompt_lookup_num_tokens=3
        )
    assert looked_up[:, -8:].tolist() == plain.tolist()


@pytest.mark.parametrize("name", ["llava_onevision", "qwen2_vl"])
def test_an_assistant_model(name: str) -> None:
    """Assisted decoding crops the cache back to the accepted tokens."""
    family, model = BY_NAME[name], shared_model(name)
    inputs = family.make_inputs(ROWS[0])
    assistant = family.make_model(seed=0)
    with attach(model, PairMerge(), layer=1):
        wanted = greedy(model, inputs, 8).tokens
        got = model.generate(
            **inputs.tensors, do_sample=False, max_new_tokens=8, assistant_model=assistant
        )
    assert got[:, -8:].tolist() == wanted.tolist()
