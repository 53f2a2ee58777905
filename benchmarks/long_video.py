"""Minutes to hours of video through nano, as a stream or watched: time, memory and needles found.

A video is made of clips of one minute at one frame per second, each with a background of its own;
one digit shows in one or two frames of one of them. Every length is measured in its own process.

python benchmarks/long_video.py --minutes 1 10 30 60 --videos 10 --out long_video.json
python benchmarks/long_video.py --ways keep thresholds --size 640 360 --minutes 10 30 60 --videos 1
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

QUESTION = "Which digit appears?"
FIRST_SEED = 72_000_000
MOST_FRAMES = 100_000
PIECE = 16  # frames, as `sttm ask --piecewise` has it


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=int, nargs="+", default=[1, 10, 30, 60])
    parser.add_argument("--videos", type=int, default=10)
    parser.add_argument("--first", type=int, default=0, help="number of the first video")
    parser.add_argument("--keep", type=int, default=4096)
    parser.add_argument("--positions", nargs="+", default=["survived", "reassigned"])
    parser.add_argument(
        "--ways",
        nargs="+",
        default=["stream"],
        choices=["stream", "keep", "thresholds", "keep-pieces", "thresholds-pieces"],
        help="as a stream, or by watch() with --keep or --thresholds; -pieces: piecewise=True",
    )
    parser.add_argument("--size", type=int, nargs=2, default=[128, 128], help="width and height")
    parser.add_argument("--thresholds", nargs=2, type=float, default=[0.99, 0.94])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path, help="draw --out, and measure nothing")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(json.loads(options.one))))
        return
    if options.plot:
        plot(options.out, options.plot)
        return
    rows: list[dict[str, Any]] = []
    for minutes in options.minutes:
        for number in range(options.first, options.first + options.videos):
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "long.mp4"
                seed = FIRST_SEED + 1000 * minutes + 100 * number
                digit = make_video(path, minutes, seed, options.size)
                for positions, way in product(options.positions, options.ways):
                    wanted = {
                        "path": str(path),
                        "way": way,
                        "positions": positions,
                        "thresholds": options.thresholds,
                        "keep": options.keep,
                    }
                    command = [sys.executable, __file__, "--one", json.dumps(wanted)]
                    done = subprocess.run(command, capture_output=True, text=True, check=True)
                    row = json.loads(done.stdout)
                    row |= {"minutes": minutes, "positions": positions, "digit": digit}
                    row |= {"keep": options.keep, "way": way, "size": options.size}
                    rows.append(row)
                    print(json.dumps(row), flush=True)
            if options.out:
                options.out.write_text(json.dumps(rows, indent=1))


def make_video(path: Path, minutes: int, seed: int, size: Sequence[int]) -> str:
    """Write a video piece by piece; the digit that it shows."""
    import av

    from sttm.nano import make_clip

    place = int(np.random.Generator(np.random.PCG64(seed)).integers(minutes))
    digit = ""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=1, options={"crf": "18"})
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for minute in range(minutes):
            clip = make_clip(seed + 1 + minute, 60, num_needles=int(minute == place))
            if clip.needles:
                digit = str(clip.needles[0].digit)
            for image in clip.frames:
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                container.mux(stream.encode(frame.reformat(*size)))
        container.mux(stream.encode(None))
    return digit


def measure(wanted: dict[str, Any]) -> dict[str, Any]:
    """Watch one file, and ask at its end."""
    import torch

    import sttm
    from sttm.nano import NANO_LAYER, load

    torch.set_num_threads(1)
    model, processor = load()
    way, _, pieces = wanted["way"].partition("-")
    method = sttm.STTM(keep=wanted["keep"], piece=PIECE if pieces else None)
    if way != "keep":
        spatial, temporal = wanted["thresholds"]
        most = wanted["keep"] if way == "stream" else None
        method = sttm.STTM(spatial_threshold=spatial, temporal_threshold=temporal, max_tokens=most)
    chat = sttm.VideoChat(model, processor, method, layer=NANO_LAYER, positions=wanted["positions"])
    before, start = peak_mib(), time.process_time()
    if way == "stream":
        watched = watch_stream(chat, wanted["path"])
    else:
        watched = chat.watch(wanted["path"], max_frames=MOST_FRAMES, piecewise=bool(pieces))
    seconds = time.process_time() - start
    peak = peak_mib()
    answer = watched.ask(QUESTION, max_new_tokens=4)
    return {
        "frames": len(watched.source.timestamps),
        "tokens_in": watched.tokens_in,
        "tokens_out": watched.tokens_out,
        "cpu_s": round(seconds, 2),
        "rss_before_mib": before,
        "rss_mib": peak,
        "kv_mib": round(watched.kv_bytes / 2**20, 1),
        "timings": vars(watched.timings),
        "answer": answer.text,
    }


def watch_stream(chat: Any, path: str) -> Any:
    """Push a file into a stream, 16 frames at a time."""
    from sttm.video.live import LiveVideo

    stream, held = chat.stream(), []
    for frame in LiveVideo(path):
        held.append(frame.image)
        if len(held) == 16:
            stream.push(np.stack(held))
            held = []
    if held:
        stream.push(np.stack(held))
    return stream.watched()


def plot(results: Path, picture: Path) -> None:
    """Draw CPU time and peak memory over the minutes of video."""
    from matplotlib.figure import Figure

    rows = [r for r in json.loads(results.read_text()) if r["positions"] == "reassigned"]
    rows = [row for row in rows if row["keep"] == rows[0]["keep"]]
    minutes = [row["minutes"] for row in rows]
    figure = Figure(figsize=(7, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(minutes, [row["cpu_s"] for row in rows], "o", alpha=0.5)
    left.set(xlabel="minutes of video", ylabel="CPU seconds", xlim=(0, None), ylim=(0, None))
    right.plot(minutes, [row["rss_mib"] for row in rows], "o", alpha=0.5, label="peak")
    right.axhline(rows[0]["rss_before_mib"], ls="--", label="nano loaded")
    right.set(xlabel="minutes of video", ylabel="MiB", xlim=(0, None), ylim=(0, None))
    right.legend()
    figure.savefig(picture, dpi=150)


def peak_mib() -> int:
    """Peak memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
