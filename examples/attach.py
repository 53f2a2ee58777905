"""Reduce the videos of your own generate() call; here with the bundled model."""

import tempfile
from pathlib import Path

import sttm
from sttm import nano
from sttm.video import read_video


def main() -> None:
    """Generate with all tokens and merged."""
    model, processor = nano.load()
    path = Path(tempfile.mkdtemp()) / "clip.mp4"
    nano.write_clip(nano.make_clip(seed=0, frames=16), path)
    frames = read_video(path, fps=100, max_frames=16).frames
    content = [{"type": "video"}, {"type": "text", "text": "Which digit appears?"}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    inputs = processor(text=[text], videos=[frames], return_tensors="pt")
    length = inputs["input_ids"].shape[1]
    plain = model.generate(**inputs, max_new_tokens=4)
    with sttm.attach(model, sttm.STTM(keep=0.3), layer=nano.NANO_LAYER) as attachment:
        merged = model.generate(**inputs, max_new_tokens=4)
    report = attachment.reports[0]
    print(f"{report.tokens_in} -> {report.tokens_out} video tokens")
    for name, output in (("all tokens", plain), ("merged", merged)):
        print(f"{name}: {processor.decode(output[0, length:], skip_special_tokens=True)}")


if __name__ == "__main__":
    main()
