"""Every tensor lands exactly once, or the error says which does not."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import SiglipVisionConfig, SiglipVisionModel

from sttm import checkpoints
from sttm.checkpoints.shards import read_headers
from sttm.errors import ConfigError, UnsupportedModelError

from . import original as tiny
from .original import TOWER, Original, write_json, write_original, write_shards

TEXT = "model.language_model."


def own_tensors(original: Original) -> dict[str, torch.Tensor]:
    """What the files of a checkpoint hold."""
    files = original.folder.glob("*.safetensors")
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def rewrite(original: Original, tensors: dict[str, torch.Tensor]) -> None:
    for file in original.folder.glob("model*"):
        file.unlink()
    write_shards(original.folder, tensors)


def plan(original: Original, **options: str) -> checkpoints.Conversion:
    return checkpoints.plan_conversion(str(original.folder), **options)


def test_every_tensor_of_the_files_is_used_once(original: Original) -> None:
    moves = plan(original).tensors.moves
    assert sorted(move.source or "" for move in moves) == sorted(own_tensors(original))
    assert len({move.target for move in moves}) == len(moves)


def test_every_tensor_has_its_values_where_the_classes_have_them(
    original: Original, converted: Path
) -> None:
    model, _ = checkpoints.load(str(converted))
    found = dict(model.state_dict())
    pairs = {
        "model.embed_tokens.weight": f"{TEXT}embed_tokens.weight",
        "model.layers.2.self_attn.k_proj.bias": f"{TEXT}layers.2.self_attn.k_proj.bias",
        "model.norm.weight": f"{TEXT}norm.weight",
        "lm_head.weight": "lm_head.weight",
        "model.mm_projector.0.weight": "model.multi_modal_projector.linear_1.weight",
        "model.mm_projector.2.bias": "model.multi_modal_projector.linear_2.bias",
        "model.image_newline": "model.image_newline",
        "vision_model.post_layernorm.weight": "model.vision_tower.post_layernorm.weight",
        "vision_model.encoder.layers.1.mlp.fc2.weight": (
            "model.vision_tower.encoder.layers.1.mlp.fc2.weight"
        ),
    }
    for name, target in pairs.items():
        assert torch.equal(found[target], original.tensors[name]), name
    # No value of the checkpoint is in two places, and none of the model comes from nowhere.
    moves = plan(original).tensors.moves
    stored = own_tensors(original)
    for move in moves:
        assert torch.equal(found.pop(move.target), stored[move.source or ""]), move.target
    assert not found


def test_the_last_layer_of_the_tower_is_dropped(original: Original) -> None:
    assert plan(original).config.vision_config.num_hidden_layers == tiny.SEEN_LAYERS - 1


@pytest.mark.parametrize("option", [True, False])
def test_the_tower_may_be_elsewhere(tmp_path: Path, option: bool) -> None:
    apart = write_original(tmp_path, tower_inside=False)
    if option:
        write_json(apart.folder / "config.json", {**apart.config, "mm_vision_tower": "siglip-x"})
        found = plan(apart, vision_tower=str(apart.tower))
    else:
        found = plan(apart)
    last = f"vision_model.encoder.layers.{tiny.SEEN_LAYERS - 1}."
    reasons = found.tensors.dropped
    assert reasons["vision_model.head.probe"].startswith("the tower's pooling")
    assert reasons[f"{last}mlp.fc1.bias"].startswith("the tower's last layer")
    assert reasons["logit_scale"] == "not of the vision tower"
    used = {move.source for move in found.tensors.moves}
    assert used | set(reasons) == set(own_tensors(apart)) | set(load_file(_weights(apart)))
    assert not used & set(reasons)


def _weights(original: Original) -> Path:
    return original.tower / "model.safetensors"


def test_a_tower_that_transformers_saved(tmp_path: Path) -> None:
    given = write_original(tmp_path, tower_inside=False)
    sizes = tiny.tower_config()["vision_config"]
    SiglipVisionModel(SiglipVisionConfig(**sizes)).save_pretrained(tmp_path / "saved")
    found = plan(given, vision_tower=str(tmp_path / "saved"))
    places = {move.target: move.source for move in found.tensors.moves}
    name = "encoder.layers.1.mlp.fc1.weight"
    assert places[f"model.vision_tower.{name}"] in (name, f"vision_model.{name}")


def test_a_tower_in_the_checkpoint_counts_even_if_another_is_named(tmp_path: Path) -> None:
    given = write_original(tmp_path)
    moves = plan(given, vision_tower=str(given.tower)).tensors.moves
    assert not [move for move in moves if move.stored and move.stored.file == _weights(given)]


def test_a_whole_tower_in_the_checkpoint(tmp_path: Path) -> None:
    given = write_original(tmp_path)
    names = (n for n in given.tensors if n.startswith("vision_model."))
    rewrite(given, own_tensors(given) | {TOWER + name: given.tensors[name] for name in names})
    dropped = plan(given).tensors.dropped
    assert len(dropped) == 17  # one layer, and the head's probe
    assert all(name.startswith(TOWER) for name in dropped)


def test_a_tied_vocabulary(tmp_path: Path) -> None:
    given = write_original(tmp_path, tied=True)
    rewrite(
        given, own_tensors(given) | {"lm_head.weight": given.tensors["model.embed_tokens.weight"]}
    )
    found = plan(given)
    assert found.tensors.dropped == {"lm_head.weight": "the same as the embedding"}
    model, _ = checkpoints.load(str(given.folder))
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()


def test_caches_of_old_code_are_left_out(tmp_path: Path) -> None:
    given = write_original(tmp_path)
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    rewrite(given, own_tensors(given) | {name: torch.ones(4)})
    assert plan(given).tensors.dropped == {name: "computed, not learned"}


def test_no_newline_token_needs_no_weight(tmp_path: Path) -> None:
    given = write_original(tmp_path)
    rewrite(given, {n: t for n, t in own_tensors(given).items() if "newline" not in n})
    made = [move.target for move in plan(given).tensors.moves if move.source is None]
    assert made == ["model.image_newline"]
    with pytest.raises(ConfigError, match=r"missing: model\.image_newline \[32\]"):
        plan(given, newline="grid")


def test_missing_unexpected_and_misshapen_tensors_are_listed(tmp_path: Path) -> None:
    given = write_original(tmp_path)
    tensors = own_tensors(given)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    tensors["model.layers.7.mlp.up_proj.weight"] = torch.ones(2, 2)
    tensors["model.mm_projector.0.bias"] = torch.ones(5)
    rewrite(given, tensors)
    with pytest.raises(ConfigError) as caught:
        plan(given)
    told = str(caught.value)
    assert f"missing: {TEXT}layers.1.mlp.up_proj.weight [48, 32]" in told
    assert "unexpected: model.layers.7.mlp.up_proj.weight" in told
    assert "of another shape: model.mm_projector.0.bias [5], expected [32]" in told


def test_a_vocabulary_with_rows_missing(tmp_path: Path) -> None:
    given = write_original(tmp_path)
    tensors = own_tensors(given)
    tensors["lm_head.weight"] = tensors["lm_head.weight"][:-3]
    rewrite(given, tensors)
    with pytest.raises(ConfigError, match=r"lm_head\.weight \[264, 32\], expected \[267, 32\]"):
        plan(given)


def test_two_names_for_one_place(tmp_path: Path) -> None:
    given = write_original(tmp_path)
    name = "model.language_model.norm.weight"
    rewrite(given, own_tensors(given) | {name: torch.ones(32)})
    with pytest.raises(ConfigError, match=f"twice: {re.escape(name)}"):
        plan(given)


def test_a_missing_shard(tmp_path: Path) -> None:
    given = write_original(tmp_path)
    (given.folder / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ConfigError, match="got no model-00002-of-00002"):
        plan(given)


def test_a_shard_that_was_cut_off(tmp_path: Path) -> None:
    given = write_original(tmp_path)
    shard = given.folder / "model-00002-of-00002.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="damaged file"):
        plan(given)


def test_a_damaged_index(tmp_path: Path) -> None:
    given = write_original(tmp_path)
    write_json(given.folder / "model.safetensors.index.json", ["weight_map"])
    with pytest.raises(ConfigError, match="damaged index"):
        plan(given)


def test_a_shard_without_what_the_index_says(tmp_path: Path) -> None:
    given = write_original(tmp_path)
    shard, other = (given.folder / f"model-0000{i}-of-00002.safetensors" for i in (1, 2))
    shard.write_bytes(other.read_bytes())
    with pytest.raises(ConfigError, match="expected it once"):
        plan(given)


def test_shards_without_an_index_are_all_read(tmp_path: Path) -> None:
    given = write_original(tmp_path)
    before = read_headers(given.folder)
    (given.folder / "model.safetensors.index.json").unlink()
    assert read_headers(given.folder) == before


def test_pickled_weights(tmp_path: Path) -> None:
    given = write_original(tmp_path)
    for file in given.folder.glob("model*"):
        file.unlink()
    (given.folder / "pytorch_model-00001-of-00002.bin").touch()
    with pytest.raises(ConfigError, match=r"pytorch_model-00001-of-00002\.bin.*to safetensors"):
        plan(given)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mm_projector_type", "linear"),
        ("mm_spatial_pool_mode", "average"),
        ("mm_spatial_pool_stride", 4),
        ("mm_resampler_type", "qformer"),
        ("add_faster_video", True),
        ("architectures", ["LlavaLlamaForCausalLM"]),
        ("mm_vision_tower", "openai/clip-vit-large-patch14-336"),
    ],
)
def test_parts_that_nobody_can_convert(tmp_path: Path, key: str, value: object) -> None:
    given = write_original(tmp_path)
    write_json(given.folder / "config.json", {**given.config, key: value})
    with pytest.raises(UnsupportedModelError, match=f"{key}|got Llava|vision tower"):
        plan(given)


def test_a_configuration_with_errors(tmp_path: Path) -> None:
    given = write_original(tmp_path, hidden_size="wide")
    with pytest.raises(ConfigError, match="hidden_size: input should be a valid integer"):
        plan(given)


def test_a_model_of_transformers_own(converted: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="in transformers' layout already"):
        checkpoints.plan_conversion(str(converted))


def test_a_tower_of_another_kind(tmp_path: Path) -> None:
    given = write_original(tmp_path, tower_inside=False)
    write_json(given.tower / "config.json", {"model_type": "clip"})
    with pytest.raises(UnsupportedModelError, match="of type 'clip', expected a SigLIP"):
        plan(given)


def test_a_tower_that_is_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    given = write_original(
        tmp_path, tower_inside=False, mm_vision_tower=str(tmp_path / "siglip-no")
    )
    with pytest.raises(ConfigError, match=r"not in the checkpoint\. Name its folder"):
        plan(given)


def test_the_real_sizes_are_known_without_a_tower_beside_it(tmp_path: Path) -> None:
    given = write_original(tmp_path, mm_vision_tower="google/siglip-so400m-patch14-384")
    with pytest.raises(
        ConfigError, match=r"patch_embedding\.weight \[16, 3, 2, 2\], expected \[1152"
    ):
        plan(given)


@pytest.mark.parametrize("option", [{"newline": "rows"}, {"dtype": "int8"}])
def test_bad_options(original: Original, option: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="expected one of"):
        plan(original, **option)
