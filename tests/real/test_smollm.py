"""A language model of another family behind the real encoder, with a tiny one in its place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training.packing import ATTENTION, packed_logits
from training.real import smollm
from training.real.clips import FRAMES, render
from training.real.data import AskBatches, RealRecipe
from training.real.evaluate import ClipSet, answers, chats_for, load, make_runs
from training.real.model import tokenizer
from training.real.pool import Pool
from training.real.sources import BACKGROUNDS, KINDS, Material
from transformers import LlamaConfig, LlamaForCausalLM

from sttm import STTM, VideoChat
from sttm.errors import ConfigError
from sttm.evaluation.specs import make_settings


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> LlamaForCausalLM:
    """A Llama of two layers with the small tokenizer, where SmolLM2 is expected."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer()),
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer().eos_token_id,
        )
        model = LlamaForCausalLM(config).to(torch.bfloat16)
    monkeypatch.setattr(smollm, "pretrained", lambda: (model, tokenizer()))
    return model


def test_a_missing_language_model_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"make real-lm"):
        smollm.pretrained(tmp_path)


def test_an_adapter_begins_at_nothing_and_adds_a_map_of_its_rank() -> None:
    base = torch.nn.Linear(24, 20)
    adapter, x = smollm.LowRank(base, rank=3), torch.randn(5, 24)
    torch.testing.assert_close(adapter(x), base(x), rtol=0, atol=0)
    torch.nn.init.normal_(adapter.up)
    added = adapter(torch.eye(24)) - base(torch.eye(24))
    assert torch.linalg.matrix_rank(added, atol=1e-4) == 3


def test_targets_are_the_words_of_what_is_in_a_cell() -> None:
    embedding = torch.randn(len(tokenizer()), 6)

    def word(name: str) -> torch.Tensor:
        ids = tokenizer()(f" {name}", add_special_tokens=False)["input_ids"]
        return embedding[ids].mean(0)

    kinds, backgrounds = list(KINDS), list(BACKGROUNDS)
    labels = torch.tensor([[2, 3, 1], [len(kinds), -100, 4], [len(kinds), -100, -100]])
    found = smollm.cell_targets(labels, embedding, tokenizer())
    expected = [word(kinds[2]) + word("bottom right"), word(backgrounds[4]), torch.zeros(6)]
    torch.testing.assert_close(found, torch.stack(expected))


def test_stages_train_what_they_should_and_the_model_can_be_compared(
    tiny: LlamaForCausalLM, material: Material, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(smollm, "HELD_OUT_BATCHES", 1)
    pool = Pool(tmp_path / "train.pool", material, 3)
    model = smollm.new_model(0)
    model.model.language_model.set_attn_implementation(ATTENTION)
    frozen = {k: p.clone() for k, p in model.named_parameters() if not p.requires_grad}
    for stage in smollm.STAGES:
        if stage.adapters:
            smollm.adapters(model)
        before = {k: p.detach().clone() for k, p in smollm.trained(model).items()}
        smollm.run_stage(
            replace(stage, steps=2), model, (pool, pool), seed=0, work=tmp_path, resume=None
        )
        changed = {k for k, p in smollm.trained(model).items() if not torch.equal(p, before[k])}
        assert changed == before.keys()
    now = dict(model.named_parameters())
    for name, weight in frozen.items():
        kept = name if name in now else name.replace("proj.", "proj.base.")
        assert torch.equal(now[kept], weight)

    loaded, processor = load(tmp_path / f"{smollm.STAGES[-1].name}.pt")
    loaded.model.language_model.set_attn_implementation(ATTENTION)
    batch = AskBatches(RealRecipe(12, 1), pool, 0, "x", 0, 1, tokenizer())[0]
    with torch.no_grad():
        expected = packed_logits(model, batch)[0]
        torch.testing.assert_close(packed_logits(loaded, batch)[0], expected, rtol=0, atol=0)

    loaded.model.language_model.set_attn_implementation("sdpa")
    runs = make_runs(make_settings(["random", "sttm"], [1.0, 0.1]), ["survived"])
    held_out = ClipSet(replace(material, held_out=True))
    for layer in (0, 1):
        found = list(answers(chats_for(loaded, processor, runs, layer), range(1), held_out, {}))
        assert {a["setting"] for a in found} == {"all", "random 0.1", "sttm 0.1"}
        assert {tuple(a["tokens"]) for a in found if a["setting"] != "all"} == {(768, 76)}


@torch.no_grad()
@pytest.mark.parametrize("layer", [0, 1])
def test_a_llama_behind_llava_onevision_is_reduced(
    tiny: LlamaForCausalLM, material: Material, layer: int
) -> None:
    state = smollm.Trained(smollm.new_model(0)).state_dict()
    model, processor = smollm.load({"model": state})
    clip, questions = ClipSet(material).clip(0)
    frames = render(clip, material)
    logits = []
    for method in (None, STTM(keep=768), STTM(keep=76)):
        chat = VideoChat(model, processor, method, layer=None if method is None else layer)
        video = chat.prefill(chat.encode(frames, fps=1.0, max_frames=FRAMES))
        logits.append(video.answer_logits(questions[0].text, [0]))
    whole, kept, merged = logits
    torch.testing.assert_close(kept, whole, rtol=0, atol=0)
    assert video.tokens_out == 76
    assert not torch.equal(merged, whole)
