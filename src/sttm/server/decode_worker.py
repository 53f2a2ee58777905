"""The process that decodes one video, and can do little else: ``python -m`` this file."""

import json
import os
import resource
import sys
import warnings
from typing import Any

import numpy as np

from sttm.errors import SttmError, VideoError
from sttm.video import read_video
from sttm.video.container import OPEN_OPTIONS, open_video
from sttm.video.passes import survey

# Containers that hold their pictures themselves. Playlists, which name other files, are not here.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,flv,ogg,asf,gif"
KNOWN_ERROR = 3  # exit status: standard error holds one line for the client


def main() -> int:
    """Decode a file; the job comes on standard input, the frames go to standard output."""
    job: dict[str, Any] = json.load(sys.stdin)
    frames_out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever libraries print is no frame
    _limit(job["bytes"], job["seconds"])
    OPEN_OPTIONS["format_whitelist"] = _FORMATS
    warnings.simplefilter("ignore")
    try:
        _check(job["path"], job["most_seconds"], job["most_pixels"])
        video = read_video(job["path"], **job["sampling"], warn=False)
    except SttmError as error:
        print(str(error).replace(job["path"], "the video"), file=sys.stderr)  # noqa: T201
        return KNOWN_ERROR
    except MemoryError:
        print("the video takes too much memory to decode.", file=sys.stderr)  # noqa: T201
        return KNOWN_ERROR
    facts = {
        "shape": video.frames.shape,
        "timestamps": video.timestamps,
        "indices": video.indices,
        "duration": video.duration,
        "fps": video.fps,
        "total_frames": video.total_frames,
        "warnings": [note.replace(job["path"], "the video") for note in video.warnings],
    }
    with frames_out:
        frames_out.write(json.dumps(facts).encode() + b"\n")
        frames_out.write(np.ascontiguousarray(video.frames).data)
    return 0


def _limit(size: int, seconds: float) -> None:
    """Take away what decoding does not need: memory, time, files, processes."""
    cpu = int(seconds) * (os.cpu_count() or 1) + 1
    limits = {
        resource.RLIMIT_AS: size,
        resource.RLIMIT_CPU: cpu,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for kind, most in limits.items():
        _, hard = resource.getrlimit(kind)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def _check(path: str, most_seconds: float, most_pixels: int) -> None:
    """Refuse a video by its packets and its header, before any picture of it is decoded."""
    found = survey(_file(path))
    with open_video(found.path, track=found.track) as source:
        context = source.stream.codec_context
        width, height = context.width, context.height
    rate = found.rate()
    if rate is not None and rate.duration > most_seconds:
        raise VideoError(
            f"got a video of {rate.duration:.0f} s, expected at most {most_seconds:.0f}. Cut it."
        )
    if width * height > most_pixels:
        raise VideoError(
            f"got frames of {width}x{height} pixels, expected at most {most_pixels} pixels. "
            "Scale the video down."
        )


def _file(path: str) -> Any:
    from sttm.video.container import check_file

    return check_file(path, "video")


if __name__ == "__main__":
    sys.exit(main())
