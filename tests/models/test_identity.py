"""A method that keeps every token changes nothing, down to the last bit."""

from functools import cache
from typing import Any

import pytest
import torch

from sttm.attachment import attach

from .families import BY_NAME, FAMILIES, Family, Inputs, every_family, shared_model, shared_out
from .layouts import Row, Text, Video
from .methods import KeepAll

pytestmark = pytest.mark.usefixtures("no_gradients")

ROWS: tuple[Row, ...] = (
    (Text(4), Video(3), Text(5, seed=1)),
    (Text(2, seed=2), Video(3, seed=3), Text(3, seed=4)),
)
MODES: dict[str, dict[str, Any]] = {
    "greedy": {"do_sample": False},
    "beams": {"do_sample": False, "num_beams": 3},
    "sampling": {"do_sample": True},
}


def _outputs(model: Any, inputs: Inputs, modes: tuple[str, ...]) -> dict[str, torch.Tensor]:
    out = {"logits": model(**inputs.tensors).logits}
    for mode in modes:
        torch.manual_seed(3)
        run = model.generate(
            **inputs.tensors,
            max_new_tokens=8,
            output_logits=True,
            return_dict_in_generate=True,
            **MODES[mode],
        )
        out[mode] = run.sequences
        out[mode + " logits"] = torch.stack(run.logits)
    return out


@cache
def _unpatched(
    name: str, attention: str, rows: int, modes: tuple[str, ...]
) -> dict[str, torch.Tensor]:
    inputs = BY_NAME[name].make_inputs(*ROWS[:rows])
    return _outputs(shared_model(name, attention), inputs, modes)


@pytest.mark.parametrize(("rows", "layer"), [(1, 0), (1, 1), (1, 3), (2, 1), (2, 3)])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@every_family
def test_keeping_all_is_bit_equal(family: Family, attention: str, rows: int, layer: int) -> None:
    modes = tuple(mode for mode in MODES if mode not in family.broken)
    if (attention, rows, layer) != ("sdpa", 2, 1):  # the searches differ in the cache only
        modes = modes[:1]
    wanted = _unpatched(family.name, attention, rows, modes)
    model, inputs = shared_model(family.name, attention), family.make_inputs(*ROWS[:rows])
    with attach(model, KeepAll(), layer=layer):
        got = _outputs(model, inputs, modes)
    assert {name: torch.equal(got[name], wanted[name]) for name in wanted} == dict.fromkeys(
        wanted, True
    )


@pytest.mark.parametrize("positions", ["survived", "reassigned", "merged"])
@pytest.mark.parametrize("family", [f for f in FAMILIES if f.rope == "1d"], ids=lambda f: f.name)
def test_every_policy_is_the_identity_on_one_axis(family: Family, positions: str) -> None:
    """On three axes "reassigned" renumbers the video even if nothing is removed."""
    wanted = _unpatched(family.name, "sdpa", 2, ("greedy",))
    model, inputs = shared_model(family.name), family.make_inputs(*ROWS)
    with attach(model, KeepAll(), layer=1, positions=positions):
        got = _outputs(model, inputs, ("greedy",))
    assert torch.equal(got["greedy logits"], wanted["greedy logits"])


@shared_out("layer", [0, 1, 2, 3])
def test_hidden_states_and_attentions_are_bit_equal(family: Family, layer: int) -> None:
    model, inputs = shared_model(family.name, "eager"), family.make_inputs(ROWS[0])

    def states() -> list[torch.Tensor]:
        out = model(**inputs.tensors, output_hidden_states=True, output_attentions=True)
        return [*out.hidden_states, *(a for a in out.attentions if a is not None)]

    wanted = states()
    with attach(model, KeepAll(), layer=layer):
        got = states()
    assert len(got) == len(wanted)
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))
