from typing import Any

import pytest

from sttm.cli.loading import load_model
from sttm.errors import ConfigError, SttmError
from sttm.integrations.lmms_eval.arguments import Arguments, read_arguments, reworded
from sttm.methods import STTM, get_method
from sttm.video import Sampling


def read(**given: Any) -> Arguments:
    return read_arguments({"pretrained": "org/model", "batch_size": 1, **given})


def test_the_published_thresholds_are_the_default() -> None:
    found = read()
    assert found.pretrained == "org/model"
    assert found.reduction.method == STTM()
    assert found.sampling == Sampling("llava", 1.0, 128)
    assert (found.positions, found.system, found.where, found.on_error) == (
        None,
        None,
        None,
        "stop",
    )


def test_everything_can_be_chosen() -> None:
    found = read(
        method="tome",
        keep="30%",
        layer=3,
        positions="merged",
        fps=2,
        max_frames=16,
        rule="uniform",
        system_prompt="Be brief.",
        on_error="skip",
        device="cuda:1",
    )
    assert found.reduction.method == get_method("tome", keep=0.3)
    assert found.reduction.layer == 3
    assert found.sampling == Sampling("uniform", 2.0, 16)
    assert (found.positions, found.system, found.where, found.on_error) == (
        "merged",
        "Be brief.",
        "cuda:1",
        "skip",
    )


@pytest.mark.parametrize(
    ("given", "method"),
    [
        ({"keep": 0.3}, STTM(keep=0.3)),
        ({"keep": 512}, STTM(keep=512)),
        ({"keep": 1}, None),
        ({"full": True}, None),
        ({"thresholds": "0.85/none"}, STTM(spatial_threshold=0.85, temporal_threshold=None)),
        ({"max_tokens": 0.4}, STTM(max_tokens=0.4)),
        ({"keep": 0.3, "parent": "top_left"}, STTM(keep=0.3, parent="top_left")),
        ({"method": "sttm:parent=top_left", "root_level": 2, "keep": 0.5}, "both"),
        ({"method": "fastv", "keep": 0.5}, get_method("fastv", keep=0.5)),
    ],
)
def test_reductions(given: dict[str, Any], method: Any) -> None:
    if method == "both":
        method = STTM(keep=0.5, parent="top_left", root_level=2)
    assert read(**given).reduction.method == method


def test_nano_has_a_name() -> None:
    found = read(pretrained="nano")
    assert found.pretrained is None
    assert found.reduction.method == STTM(keep=0.3)  # its features are too alike for thresholds


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"pretrained": None}, "expected the hub id or folder"),
        ({"kep": 0.3}, "got 'kep'. Did you mean 'keep'"),
        ({"max_frame": 8}, "Did you mean 'max_frames'"),
        ({"keep": 2.5}, r"keep.*2\.5"),
        ({"keep": "much"}, "model_args: keep: got 'much'"),
        ({"keep": 0.3, "thresholds": "0.8/0.6"}, "got keep and thresholds, expected one"),
        ({"keep": 0.3, "max_tokens": 9}, "got keep and max_tokens, expected one"),
        ({"thresholds": "high"}, "model_args: thresholds: got 'high'"),
        ({"method": "stm"}, "unknown method 'stm'. Did you mean 'sttm'"),
        ({"method": "tome"}, "got method tome without keep"),
        ({"colour": "red"}, "got option 'colour'"),
        ({"batch_size": 4}, "batch_size: got 4, expected 1"),
        ({"batch_size": "auto"}, "batch_size: got 'auto', expected 1"),
        ({"layer": 1.5}, "layer: got 1.5, expected a whole number"),
        ({"max_frames": "all"}, "max_frames: got 'all'"),
        ({"max_frames": 0}, "max_frames"),
        ({"fps": "fast"}, "fps: got 'fast'"),
        ({"rule": "first"}, "unknown sampling rule 'first'"),
        ({"full": "yes"}, "full: got 'yes', expected true or false"),
        ({"on_error": "ignore"}, "on_error: got 'ignore', expected stop or skip"),
    ],
)
def test_bad_arguments_are_named(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read(**given)
    assert "--keep" not in str(caught.value)


def test_the_command_lines_errors_are_reworded() -> None:
    with pytest.raises(SttmError, match="model_args: pretrained: got '/nowhere'"), reworded():
        load_model("/nowhere")
