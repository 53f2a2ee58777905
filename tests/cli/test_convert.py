import json
import re
from pathlib import Path

import pytest
import torch

from tests.checkpoints.original import Original, write_original

from .conftest import Run
from .marks import needs_nano

Q = "What happens?"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Original:
    return write_original(tmp_path_factory.mktemp("original"))


def test_converted_and_asked(run: Run, original: Original, tmp_path: Path, clip: Path) -> None:
    out = tmp_path / "out"
    done = run("convert", original.folder, out, "--verify")
    assert done.exit_code == 0
    assert "0.05 M parameters, 0.19 MB in float32" in done.stdout
    assert re.search("written: .*every tensor verified", done.stdout)
    assert "newline tokens: no_token; the checkpoint's config.json says grid" in done.stderr
    answers = []
    for model in (out, original.folder):
        asked = run("ask", clip, Q, "--model", model, "--keep", "0.5", "--layer", "1", "--json")
        found = json.loads(asked.stdout)
        assert (found["tokens_in"], found["tokens_out"]) == (8 * 9, 4 * 9)
        answers.append(found["questions"][0]["answer"])
        assert ("LLaVA-NeXT's layout" in asked.stderr) == (model is original.folder)
    assert answers[0] == answers[1]


def test_json(run: Run, original: Original, tmp_path: Path) -> None:
    given = ("--newline", "checkpoint", "--dtype", "bfloat16", "--json")
    found = json.loads(run("convert", original.folder, tmp_path / "out", *given).stdout)
    assert (found["newline"], found["dtype"], found["time_instruction"]) == (
        "grid",
        "bfloat16",
        True,
    )
    assert found["weights"] == 2 * found["parameters"]
    assert found["tensors"] == []
    assert not found["verified"]
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_dry_run_writes_nothing(run: Run, tmp_path: Path) -> None:
    given = write_original(tmp_path, tower_inside=False)
    before = sorted(tmp_path.rglob("*"))
    done = run("convert", given.folder, tmp_path / "out", "--dry-run")
    assert done.exit_code == 0
    assert sorted(tmp_path.rglob("*")) == before
    shown = "".join(done.stdout.split())
    assert "multi_modal_projector" in shown
    assert "dropped" in shown
    found = json.loads(run("convert", given.folder, "--dry-run", "--json").stdout)
    assert found["out"] is None
    moved = {tensor["source"]: tensor["target"] for tensor in found["tensors"]}
    assert moved["model.norm.weight"] == "model.language_model.norm.weight"
    assert set(moved) | set(found["dropped"]) == set(given.tensors)


def test_no_place_to_write_to(run: Run, original: Original) -> None:
    done = run("convert", original.folder)
    assert done.exit_code == 2
    assert "expected a new folder" in done.stderr


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--newline", "rows"), "no_token, one_token, frame, grid"),
        (("--dtype", "int4"), "bfloat16, float16, float32"),
    ],
)
def test_bad_options(
    run: Run, original: Original, tmp_path: Path, options: tuple[str, ...], told: str
) -> None:
    done = run("convert", original.folder, tmp_path / "out", *options)
    assert done.exit_code == 2
    assert told in done.stderr
    assert not (tmp_path / "out").exists()


def test_something_else(run: Run, tmp_path: Path) -> None:
    done = run("convert", tmp_path, tmp_path / "out")
    assert done.exit_code == 2
    assert "got no config.json" in done.stderr
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_vl"}))
    done = run("convert", tmp_path, tmp_path / "out")
    assert "of type 'qwen2_vl'" in done.stderr


def test_rope_scaling_is_told(run: Run, tmp_path: Path) -> None:
    given = write_original(tmp_path, rope_scaling={"type": "linear", "factor": 2.0})
    done = run("convert", given.folder, "--dry-run")
    assert "rope_scaling in config.json is left out" in done.stderr


def test_device_map(run: Run, original: Original, clip: Path) -> None:
    asked = run("ask", clip, Q, "--model", original.folder, "--device-map", "cpu", "--json")
    assert json.loads(asked.stdout)["questions"]
    refused = run("ask", clip, Q, "--model", original.folder, "--device-map", "gpu")
    assert refused.exit_code == 2
    assert "--device-map: got 'gpu'" in refused.stderr


def test_an_incomplete_checkpoint_given_to_model(run: Run, tmp_path: Path, clip: Path) -> None:
    given = write_original(tmp_path, dtype=torch.bfloat16)
    (given.folder / "model-00001-of-00002.safetensors").unlink()
    asked = run("ask", clip, Q, "--model", given.folder)
    assert asked.exit_code == 2
    assert "got no model-00001-of-00002.safetensors" in asked.stderr


@needs_nano
def test_a_folder_to_serve(run: Run, original: Original, tmp_path: Path) -> None:
    done = run("convert", "nano", tmp_path / "out", "--serve", "--keep", "0.25", "--json")
    found = json.loads(done.stdout)
    assert found["method"] == "sttm, keep 0.25"
    assert sorted(Path(file).name for file in found["files"]) == [
        "generate.py",
        "processor_config.json",
        "served_processor.py",
    ]
    assert "'keep': 0.25" in (tmp_path / "out/custom_generate/generate.py").read_text()
    for given, said in (
        (("nano", tmp_path / "out", "--serve"), "a place that is taken"),
        (("nano", "--serve"), "OUT: got none"),
        (("nano", tmp_path / "new", "--serve", "--keep", "1"), "there is nothing to reduce"),
        (("nano", tmp_path / "new", "--serve", "--verify"), "got --verify with --serve"),
        ((original.folder, tmp_path / "new", "--serve"), "convert it without --serve first"),
        ((original.folder, tmp_path / "new", "--keep", "0.3"), "got --keep with no --serve"),
    ):
        done = run("convert", *given)
        assert done.exit_code == 2
        assert said in " ".join(done.stderr.split())
