"""transformers' internal names stand in one file; a rename is looked for in one place."""

import ast
from collections.abc import Iterator
from pathlib import Path

import sttm

SOURCE = Path(sttm.__file__).parent
HOME = SOURCE / "models" / "transformers_api.py"
NAMES = {
    # the cache, also in versions that are gone
    *("past_key_values", "past_key_value", "cache_params", "layer_idx"),
    # what is handed to generate and to the models
    *("mm_encoder_outputs", "attention_mask", "position_ids", "inputs_embeds"),
    *("position_embeddings", "visual_pos_masks", "deepstack_visual_embeds"),
    *("cu_seqlens", "cu_seq_lens_q", "pixel_values_videos", "pixel_values"),
    # fields of outputs
    *("last_hidden_state", "pooler_output", "deepstack_features"),
    *("image_hidden_states", "video_hidden_states"),
    "LAYER_PATTERN_TO_MASK_FUNCTION_MAPPING",
}
# A subclass of a model's encoder has that encoder's parameters.
ALLOWED = {
    "checkpoints/llava.py": {"pixel_values_videos"},
    "vllm/llava_onevision.py": {"pixel_values_videos"},  # vLLM's inputs
}


def names_in(path: Path) -> Iterator[str]:
    """Every identifier and string of a file that is code, not documentation."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Constant(value=str(value)):
                yield value
            case ast.Attribute(attr=name) | ast.keyword(arg=str(name)) | ast.Name(id=name):
                yield name
            case ast.arg(arg=name) | ast.alias(name=name):
                yield name


def test_names_of_transformers_stand_in_one_file() -> None:
    found = {
        f"{path.relative_to(SOURCE)}: {name}"
        for path in SOURCE.rglob("*.py")
        for name in NAMES.intersection(names_in(path))
        if path != HOME and name not in ALLOWED.get(str(path.relative_to(SOURCE)), set())
    }
    assert not found, f"take these names from {HOME.name}"


def test_the_file_says_them() -> None:
    gone = {"past_key_values", "past_key_value", "cache_params"}
    unread = {"image_hidden_states", "video_hidden_states"}
    assert NAMES - gone - unread <= set(names_in(HOME))
    assert not (gone | unread).intersection(names_in(HOME))
