"""The plugin does what sttm does in transformers in front of layer 0: same plan, same logits."""

import pytest
import torch

import sttm

from .conftest import Checkpoint
from .engine import Clip, Engine, Request, turn

CLIPS = (Clip(), Clip(16, fps=4.0, seed=2, size=(84, 140)))


def reference(
    folder: str, request: Request, method: str, positions: list[list[int]]
) -> list[float]:
    """Return the logprobs of the first token.

    Args:
        positions: of the unmerged prompt, ``(3, N)``. transformers 5.19 counts on behind a video
            from its rows and columns alone, vLLM as the original models also from its time.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).eval()
    [clip] = request.clips
    inputs = AutoProcessor.from_pretrained(folder)(
        text=[request.prompt],
        videos=[torch.from_numpy(clip.pixels()).permute(0, 3, 1, 2)],
        video_metadata=[{k: v for k, v in clip.metadata().items() if k != "do_sample_frames"}],
        do_sample_frames=False,
        return_tensors="pt",
    )
    inputs["position_ids"] = torch.tensor(positions)[:, None]
    with torch.no_grad(), sttm.attach(model, sttm.get_method(method, keep=0.5), layer=0):
        logits = model(**inputs).logits[0, -1]
    logprobs: list[float] = logits.log_softmax(0).tolist()
    return logprobs


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe"])
@pytest.mark.parametrize("method", ["sttm", "vidcom2"])
def test_transformers_and_vllm_agree(name: str, method: str, checkpoint: Checkpoint) -> None:
    pytest.importorskip(
        "transformers", "5.19"
    )  # sttm.attach needs it; vLLM 0.31 wants an older one
    folder, prompt, whole = checkpoint(name), turn("What is this?"), (("sttm_keep", 1.0),)
    engine = Engine(folder, sttm=f'{{"method": "{method}"}}', rate=0.5)
    requests = [Request(prompt, (clip,), tokens=1) for clip in CLIPS]
    unmerged = [Request(prompt, (clip,), kwargs=whole, tokens=1) for clip in CLIPS]
    answers = engine.ask(*requests, *unmerged)
    for request, answer, full in zip(requests, answers, answers[2:], strict=False):
        wanted = reference(folder, request, method, full.positions)
        assert answer.logprobs[0] == pytest.approx(wanted, abs=1e-5)
