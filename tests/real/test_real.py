"""The model on features of a trained encoder: clips, pools, training and evaluation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training.ask import Packer
from training.data import prefetch
from training.labels import IGNORE, CellBatch
from training.packing import ATTENTION, packed_logits
from training.real import train
from training.real.clips import FRAMES, SIZE, Clip, Needle, compose, render, render_frame
from training.real.data import AskBatches, RealRecipe, cell_labels, kept_frames, needed_frames
from training.real.evaluate import ClipSet, answers, chats_for, make_runs, rows
from training.real.model import LEXICON, NONE, load, new_model, tokenizer
from training.real.mrope import MROPE, give_mrope, with_mrope
from training.real.pool import Pool
from training.real.questions import TASKS, make_questions
from training.real.sources import BACKGROUNDS, KINDS, Material
from training.real.tower import LiteTower, placed
from transformers.video_utils import VideoMetadata

from sttm.errors import ConfigError
from sttm.evaluation.specs import make_settings


@pytest.fixture
def pool(material: Material, tmp_path: Path) -> Pool:
    return Pool(tmp_path / "train.pool", material, 3)


def test_cut_outs_for_testing_are_never_trained_on(material: Material) -> None:
    held_out = replace(material, held_out=True)
    for kind in KINDS:
        assert not set(material.cut_outs(kind)) & set(held_out.cut_outs(kind))
        assert len(material.cut_outs(kind)) + len(held_out.cut_outs(kind)) == 8
    for name in BACKGROUNDS:
        assert len(material.video(name)) + len(held_out.video(name)) == 20


def test_missing_material_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"make real-material"):
        Material(tmp_path).cut_outs("bird")
    with pytest.raises(ConfigError, match=r"make real-material"):
        LiteTower(tmp_path)


def test_a_clip_of_a_pool_has_the_features_of_its_frames(material: Material, pool: Pool) -> None:
    tower = LiteTower()
    for seed in range(4):
        clip, features = pool.draw(np.random.default_rng(seed))
        frames = torch.from_numpy(render(clip, material))
        torch.testing.assert_close(features, tower.cells(frames), atol=2e-3, rtol=2e-3)


def test_needles_are_alone_in_their_frames_and_differ(pool: Pool) -> None:
    for seed in range(50):
        clip, _ = pool.draw(np.random.default_rng(seed))
        shown = [t for n in clip.needles for t in range(n.start, n.end)]
        assert len(shown) == len(set(shown))
        assert len({n.kind for n in clip.needles}) == len(clip.needles) <= 4
        assert [s.start for s in clip.scenes] == [0, *(s.end for s in clip.scenes[:-1])]
        assert clip.frames == FRAMES


def test_a_needle_changes_only_its_box(material: Material, pool: Pool) -> None:
    stock = pool.stocks[0]
    needle = stock.runs[0][0]
    bare = render_frame(stock.shot, needle.start, None, material)
    changed = (render_frame(stock.shot, needle.start, needle, material) != bare).any(-1)
    y, x = changed.nonzero()
    width, height = needle.box
    assert needle.x <= x.min() <= x.max() < needle.x + width
    assert needle.y <= y.min() <= y.max() < needle.y + height
    half = SIZE // 2
    corner = (["top", "bottom"][y.min() // half], ["left", "right"][x.min() // half])
    assert needle.quadrant.split() == list(corner)


def hand_made(pool: Pool) -> Clip:
    """Two scenes; a coin at the top left becomes a bird; a sign at the bottom right earlier."""
    path = pool.stocks[0].runs[0][0].path
    needles = (
        Needle("sign", path, 48, 180, 150, False, 1, 2),
        Needle("coin", path, 48, 10, 20, False, 5, 6),
        Needle("bird", path, 48, 10, 20, False, 6, 8),
    )
    street = replace(pool.stocks[0].shot, source="street")
    tree = replace(street, source="tree")
    clip, _ = compose(np.random.default_rng(0), [street] * 3, [[]] * 3)
    scenes = (
        replace(clip.scenes[0], shot=street, start=0, end=9),
        replace(clip.scenes[0], shot=tree, start=9, end=12),
    )
    return Clip(scenes, needles)


def test_answers_of_a_clip_made_by_hand(pool: Pool) -> None:
    asked = make_questions(hand_made(pool), np.random.default_rng(0))
    found = {(q.task, q.answer) for q in asked}
    assert found == {
        ("count", "3"),
        ("kind", "sign"),
        ("quadrant", "top left"),
        ("quadrant", "bottom right"),
        ("when", "early"),
        ("when", "middle"),
        ("order", "sign"),
        ("order", "coin"),
        ("change", "bird"),
        ("cut", "late"),
        ("background", "street"),
        ("background", "tree"),
    }
    assert {q.task for q in asked} == set(TASKS)
    ids = tokenizer()([q.text for q in asked])["input_ids"]
    assert tokenizer().batch_decode(ids) == [q.text for q in asked]


def test_labels_say_what_is_in_a_cell(pool: Pool) -> None:
    labels = cell_labels(hand_made(pool)).reshape(FRAMES, 8, 8, 3)
    assert (labels[5, ..., 0] == list(KINDS).index("coin")).any()
    assert (labels[[0, 2, 3, 8], ..., 0] == NONE).all()
    assert set(labels[8, ..., 2].flatten()) == {list(BACKGROUNDS).index("street")}
    assert set(labels[9, ..., 2].flatten()) == {list(BACKGROUNDS).index("tree")}


def test_kept_frames_hold_what_is_asked_for(pool: Pool) -> None:
    clip = hand_made(pool)
    kept = kept_frames(clip, np.random.default_rng(0), 9)
    assert len(kept) == 9
    assert needed_frames(clip) == {0, 1, 5, 6, 7, 8, 9, 11}
    assert needed_frames(clip) <= set(kept)


def test_the_tower_inside_the_model_gives_the_features_of_the_pool(material: Material) -> None:
    model, _ = new_model(0)
    tower = model.model.vision_tower = LiteTower()
    frames = torch.from_numpy(render(ClipSet(material).clip(0)[0], material))
    pixels = (frames.permute(0, 3, 1, 2).float() - 127) / 128
    with torch.no_grad():
        given = model.model.get_video_features(pixels[None]).pooler_output
        expected = model.model.multi_modal_projector(placed(tower.cells(frames))).flatten(0, 1)
    torch.testing.assert_close(given[0, :-1], expected)


def test_words_of_the_lexicon_are_single_tokens() -> None:
    for word, _, _ in LEXICON.words:
        assert len(tokenizer().encode(word)) == 1


def test_training_goes_through_all_stages_and_the_model_can_be_compared(
    material: Material, pool: Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "EVALUATED", {"train": 1, "held": 1})
    monkeypatch.setattr(train, "MEASURED", {"cells": 2, "order": 1})
    stages = [
        replace(stage, steps=2, recipe=stage.recipe and replace(stage.recipe, clips=2))
        for stage in (*train.STAGES, train.WITH_MROPE)
    ]
    model, head = new_model(0)
    before = {name: p.clone() for name, p in model.named_parameters()}
    for stage in stages:
        train.switch(stage, model)
        train.begin(stage, model, head, pool, 0)
        train.run_stage(stage, model, head, (pool, pool), seed=0, work=tmp_path, resume=None)
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())
    runs = make_runs(make_settings(["random", "sttm"], [1.0, 0.1]), ["survived", "merged"])
    labels = ["all", "random 0.1", "sttm 0.1", "random 0.1 merged", "sttm 0.1 merged"]
    held_out = ClipSet(replace(material, held_out=True))
    for stage in stages[-2:]:
        chats = chats_for(*load(tmp_path / f"{stage.name}.pt"), runs)
        found = list(answers(chats, range(1), held_out, {}))
        table = rows(found, runs, against="random")
        assert [row["setting"] for row in table] == labels
        assert table[0]["retention"] == 1.0
        assert table[1]["retention"] == pytest.approx(0.1, abs=0.01)
        compared = [[name for name in row if name.startswith("less")] for row in table]
        assert compared[:3] == [[], ["less all"], ["less all", "less random"]]
        assert compared[4] == ["less all", "less random", "less survived"]
        known = {(a["setting"], a["clip"], a["index"]): a for a in found}
        assert not list(answers(chats, range(1), held_out, known))
        del known["sttm 0.1", 0, found[-1]["index"]]
        again = list(answers(chats, range(1), held_out, known))
        assert {a["setting"] for a in again} == {"sttm 0.1"}


@torch.no_grad()
def test_packed_mrope_is_what_qwen_computes(material: Material, tmp_path: Path) -> None:
    trained, _ = new_model(0)
    for weight in trained.model.language_model.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    torch.save({"stage": MROPE, "model": trained.state_dict()}, tmp_path / "mrope.pt")
    model, processor = load(tmp_path / "mrope.pt")
    clip, questions = ClipSet(material).clip(0)
    frames = torch.from_numpy(render(clip, material))
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "?"}]}],
        add_generation_prompt=True,
    )
    text = text.replace("?", questions[-1].text)
    times = VideoMetadata(total_num_frames=FRAMES, fps=1.0, frames_indices=list(range(FRAMES)))
    inputs = processor(
        text=[text],
        videos=[frames.numpy()],
        video_metadata=[times],
        do_sample_frames=False,
        return_tensors="pt",
    )
    cells = CellBatch(
        placed(model.model.visual.tower.cells(frames))[None],
        torch.from_numpy(cell_labels(clip))[None],
    )
    slots = [list(range(FRAMES + 1))]
    numbers = [[[i] for i in range(len(questions))]]
    packed = with_mrope(Packer(tokenizer()).pack(cells, [questions], numbers, slots), slots)
    give_mrope(trained)
    trained.model.language_model.set_attn_implementation(ATTENTION)
    ends = packed.labels[0] != IGNORE
    first = packed.questions[0][ends].tolist().index(len(questions) - 1)
    logits = packed_logits(trained, packed)[0][first]
    torch.testing.assert_close(logits, model(**inputs).logits[0, -1], atol=1e-3, rtol=1e-3)


def test_batches_depend_on_seed_and_step_alone(pool: Pool) -> None:
    recipe = RealRecipe(12, 2)
    whole = list(prefetch(AskBatches(recipe, pool, 0, "x", 0, 3), workers=0))
    later = list(prefetch(AskBatches(recipe, pool, 0, "x", 2, 3), workers=0))
    assert torch.equal(whole[2].ids, later[0].ids)  # type: ignore[attr-defined]
    assert torch.equal(whole[2].frames, later[0].frames)  # type: ignore[attr-defined]
