"""Rows of a batch do not notice each other, however much each is reduced."""

from typing import Any

import pytest
import torch

from sttm.attachment import attach

from .families import (
    BY_NAME,
    Family,
    Inputs,
    every_family,
    flat,
    shared_model,
    shared_out,
    unlike_families,
)
from .layouts import Row, Text, Video
from .methods import ContentMerge, KeepEvery
from .oracle import by_hand
from .running import Answer, assert_same, greedy, tolerance

pytestmark = pytest.mark.usefixtures("no_gradients")

POLICIES = ["survived", "reassigned", "merged"]


def rows_of(family: Family) -> tuple[Row, Row]:
    """Two prompts; videos of different lengths where a batch can hold them."""
    frames = 5 if family.ragged else 3
    return (
        (Text(4), Video(3), Text(5, seed=1)),
        (Text(2, seed=2), Video(frames, seed=3), Text(4, seed=4)),
    )


def alone(family: Family, model: Any, rows: tuple[Row, ...], **more: Any) -> list[Answer]:
    return [greedy(model, family.make_inputs(row), **more) for row in rows]


@shared_out(
    "attention,layer,positions",
    [
        ("sdpa", 0, "survived"),
        ("sdpa", 0, "reassigned"),
        ("sdpa", 2, "survived"),
        ("sdpa", 2, "reassigned"),
        ("sdpa", 2, "merged"),
        ("eager", 1, "reassigned"),
    ],
)
def test_a_batch_equals_its_rows(
    family: Family, attention: str, layer: int, positions: str
) -> None:
    model = shared_model(family.name, attention)
    rows = (*rows_of(family), (Text(6, seed=5), Video(3, seed=8), Text(2, seed=6)))
    with attach(model, ContentMerge(), layer=layer, positions=positions) as attachment:
        batch = greedy(model, family.make_inputs(*rows), 4)
        counts = [report.tokens_out for report in attachment.reports]
        single = alone(family, model, rows, steps=4)
    assert len(set(counts)) > 1
    for row, answer in enumerate(single):
        assert_same(batch.row(row), answer, tolerance(family.name))


@shared_out("positions", POLICIES)
def test_a_row_without_a_video(family: Family, positions: str) -> None:
    model = shared_model(family.name)
    rows: tuple[Row, ...] = (
        (Text(4), Video(3), Text(5, seed=1)),
        (Text(12, seed=2),),
        (Text(70, seed=3),),
    )
    plain = alone(family, model, rows[1:])
    for pair, other in (((0, 1), plain[0]), ((2, 0), plain[1])):
        with attach(model, KeepEvery(3), layer=1, positions=positions):
            batch = greedy(model, family.make_inputs(*(rows[i] for i in pair)))
            single = alone(family, model, rows[:1])[0]
        text, video = (1, 0) if pair[0] == 0 else (0, 1)
        assert_same(batch.row(text), other, tolerance(family.name))
        assert_same(batch.row(video), single, tolerance(family.name))


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("layer", [0, 2])
@every_family
def test_every_position_of_a_padded_prefill(family: Family, layer: int, padding: Any) -> None:
    """All logits that are not a removed token's, on either side of the padding."""
    model, rows = shared_model(family.name), rows_of(family)
    inputs = family.make_inputs(*rows, padding=padding)
    with attach(model, ContentMerge(), layer=layer):
        batch = model(**inputs.tensors).logits
    positions = "survived" if family.rope == "mrope" else "reassigned"
    for row, parts in enumerate(rows):
        single = family.make_inputs(parts)
        hand = by_hand(model, single, ContentMerge(), layer, positions)
        real = inputs.tensors["attention_mask"][row].bool()
        got = batch[row][real][hand.kept]
        torch.testing.assert_close(got, hand.logits, atol=tolerance(family.name), rtol=0)


@every_family
def test_two_videos_in_one_row_and_one_in_the_other(family: Family) -> None:
    model = shared_model(family.name)
    first = (Text(3), Video(3), Text(36, seed=1), Video(3, seed=2), Text(4, seed=2))
    rows: tuple[Row, ...] = (rows_of(family)[0], first)
    with attach(model, ContentMerge(), layer=1) as attachment:
        batch = greedy(model, family.make_inputs(*rows))
        assert len(attachment.reports) == 3
        single = alone(family, model, rows)
    for row, answer in enumerate(single):
        assert_same(batch.row(row), answer, tolerance(family.name))


def search(model: Any, inputs: Inputs, **more: Any) -> tuple[list[list[int]], torch.Tensor]:
    """Sequences without the prompt, and their scores."""
    out = model.generate(
        **inputs.tensors,
        do_sample=False,
        max_new_tokens=5,
        output_scores=True,
        return_dict_in_generate=True,
        **more,
    )
    return out.sequences[:, -5:].tolist(), out.sequences_scores


@shared_out(
    "positions,beams,returned",
    [("survived", 3, 1), ("reassigned", 4, 2), ("survived", 4, 2), ("reassigned", 3, 1)],
)
def test_beams_over_rows_of_different_counts(
    family: Family, positions: str, beams: int, returned: int
) -> None:
    if "beams" in family.broken:
        pytest.skip(f"the unpatched library fails: {family.broken['beams']}")
    model, rows = shared_model(family.name), rows_of(family)
    more = {"num_beams": beams, "num_return_sequences": returned}
    with attach(model, ContentMerge(), layer=1, positions=positions):
        tokens, scores = search(model, family.make_inputs(*rows), **more)
        single = [search(model, family.make_inputs(row), **more) for row in rows]
    assert tokens == [sequence for one, _ in single for sequence in one]
    wanted = torch.cat([score for _, score in single])
    torch.testing.assert_close(scores, wanted, atol=tolerance(family.name), rtol=0)


@unlike_families
def test_beams_do_not_multiply_reports(family: Family) -> None:
    if "beams" in family.broken:
        pytest.skip(f"the unpatched library fails: {family.broken['beams']}")
    inputs = family.make_inputs(*rows_of(family))
    with attach(shared_model(family.name), ContentMerge(), layer=1) as attachment:
        search(shared_model(family.name), inputs, num_beams=2)
        got = [report.grid for report in attachment.reports]
    assert got == [place.grid for place in flat(inputs.videos)]


@unlike_families
def test_samples_of_one_prompt(family: Family) -> None:
    """The likeliest token only, drawn twice: greedy, in copies."""
    if "beams" in family.broken:
        pytest.skip(f"the unpatched library fails: {family.broken['beams']}")
    model, inputs = shared_model(family.name), family.make_inputs(*rows_of(family))
    with attach(model, ContentMerge(), layer=1):
        one = greedy(model, inputs, 4).tokens
        many = model.generate(
            **inputs.tensors, do_sample=True, top_k=1, num_return_sequences=2, max_new_tokens=4
        )
    assert many[:, -4:].tolist() == one.repeat_interleave(2, 0).tolist()


@pytest.mark.parametrize("positions", POLICIES)
def test_tokens_that_the_processor_already_dropped(positions: str) -> None:
    """VideoLLaMA 3 leaves out tokens of its own; what is left is reduced, in a batch too."""
    family = BY_NAME["video_llama_3"]
    model = shared_model(family.name)
    rows: tuple[Row, ...] = (
        (Text(4), Video(3, dropped=(7, 8, 12, 13, 14)), Text(5, seed=1)),
        (Text(3), Video(4, seed=2, dropped=(6, 7, 8, 9, 10, 11, 20)), Text(3, seed=1)),
    )
    with attach(model, KeepEvery(2), layer=1, positions=positions) as attachment:
        batch = greedy(model, family.make_inputs(*rows))
        assert [(r.tokens_in, r.grid.num_tokens) for r in attachment.reports] == [
            (13, 18),
            (17, 24),
        ]
        single = alone(family, model, rows)
    for row, answer in enumerate(single):
        assert_same(batch.row(row), answer, tolerance(family.name))
