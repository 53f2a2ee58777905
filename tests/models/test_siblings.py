"""Mixture-of-experts siblings use their families' adapters: the quick checks on them too."""

from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForImageTextToText

from sttm import attach

from . import configs
from .families import BY_NAME, Inputs, _sharpen
from .layouts import Text, Video
from .methods import KeepAll, PairMerge

SIBLINGS = {
    "Qwen3VLMoeConfig": "qwen3_vl",
    "Qwen3_5MoeConfig": "qwen3_5",
    "Glm4vMoeConfig": "glm4v",
}
_EXPERTS = {
    "num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "decoder_sparse_step": 1,
    "shared_expert_intermediate_size": 32,
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}


def build(config: str) -> tuple[Any, Inputs]:
    """Build the sibling from its family's tiny configuration, and a prompt with one video."""
    family = BY_NAME[SIBLINGS[config]]
    facts = getattr(configs, family.name)().to_dict()
    text, vision = dict(facts["text_config"]), dict(facts["vision_config"])
    for part in (text, vision):
        part.pop("model_type")
    text |= _EXPERTS
    if family.name == "glm4v":  # half of each head rotates in the sibling
        text["rope_parameters"] = {**text["rope_parameters"], "mrope_section": [1, 1, 2]}
    ids = {name: value for name, value in facts.items() if name.endswith("token_id")}
    torch.manual_seed(0)
    model = AutoModelForImageTextToText.from_config(
        getattr(transformers, config)(text_config=text, vision_config=vision, **ids)
    )
    return _sharpen(model, 0).eval(), family.make_inputs((Text(5), Video(3), Text(4)))


@torch.no_grad()
@pytest.mark.parametrize("config", SIBLINGS)
def test_a_sibling_keeps_and_decodes_like_its_family(config: str) -> None:
    model, inputs = build(config)
    plain = model(**inputs.tensors).logits
    for layer in (0, 1, 3):
        with attach(model, KeepAll(), layer=layer):
            assert torch.equal(model(**inputs.tensors).logits, plain)
        with attach(model, PairMerge(), layer=layer, positions="reassigned") as attachment:
            out = model.generate(
                **inputs.tensors,
                max_new_tokens=5,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
            )
            grown = inputs.followed_by(out.sequences[:, inputs.length : -1])
            whole = model(**grown.tensors, use_cache=False).logits
        assert attachment.reports[0].retention == 0.5
        for step, logits in enumerate(out.logits):
            torch.testing.assert_close(
                whole[:, inputs.length - 1 + step], logits, atol=2e-4, rtol=0
            )
