"""Split over two processes, a model gives the answer that it gives in one."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import sttm
from sttm import checkpoints
from sttm.nano.clips import make_clip, write_clip

from .original import Original

COMMANDS = Path(sys.executable).parent
TORCHRUN = (
    "torchrun",
    "--standalone",
    "--no-python",
    "--nproc-per-node=2",
    "--local-ranks-filter=0",
)
QUESTION = "What happens?"


@pytest.mark.slow
@pytest.mark.skipif(not (COMMANDS / "torchrun").is_file(), reason="needs torchrun")
def test_tensor_parallel(original: Original, tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    write_clip(make_clip(50_000_000, 4), clip)
    method = sttm.STTM(keep=0.5)
    chat = sttm.VideoChat(*checkpoints.load(str(original.folder)), method, layer=1)
    alone = chat.watch(clip).ask(QUESTION, max_new_tokens=6)
    given = ("--keep", "0.5", "--layer", "1", "--max-new-tokens", "6", "--json")
    model = ("--model", str(original.folder), "--device-map", "tp")
    ask = (str(COMMANDS / "sttm"), "ask", str(clip), QUESTION, *model, *given)
    done = subprocess.run(
        [str(COMMANDS / TORCHRUN[0]), *TORCHRUN[1:], *ask],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"},
    )
    split = json.loads(done.stdout)
    assert split["tokens_out"] == 18
    assert split["questions"][0]["answer"] == alone.text
