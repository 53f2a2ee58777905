"""What can be shown of watched videos: their frames, their cells, and a report."""

import contextlib
import threading
from collections import OrderedDict
from dataclasses import asdict
from typing import Any

from sttm.chat import PrefilledVideo, VideoStore
from sttm.errors import ConfigError
from sttm.grid import VideoGrid
from sttm.server.errors import ApiError
from sttm.server.uploads import Uploads
from sttm.server.watching import Chats
from sttm.video import Video
from sttm.view.page import jpeg, page, page_data

_HELD = 8  # videos whose frames are kept as pictures


class Views:
    """Shows the videos of a store; frames are decoded again from uploaded files.

    Args:
        store: has the watched videos.
        chats: of its model.
        uploads: have the files.
    """

    def __init__(self, store: VideoStore, chats: Chats, uploads: Uploads) -> None:
        self._store = store
        self._chats = chats
        self._uploads = uploads
        self._lock = threading.Lock()  # one video is decoded for a page at a time
        self._pictures: OrderedDict[str, list[bytes]] = OrderedDict()

    def facts(self, key: str) -> dict[str, Any]:
        """Return what a page needs to show a video.

        Args:
            key: of the video in the store.

        Returns:
            for JSON: the file's id (None if it was not uploaded), the frames' times, stage times,
            and ``cells``, see `sttm.view.page_data`; None if all tokens were kept, or if the
            model drops some by itself, so that the rest cannot be drawn.

        Raises:
            ApiError: there is no such video.
        """
        video = self._find(key)
        file, source = self._uploads.of_video(key), video.source
        cells = None
        if video.reports:
            report = video.reports[-1]
            with contextlib.suppress(ConfigError):
                cells = page_data(report.plan, report.grid, source.timestamps)
        return {
            "file_id": None if file is None else file.id,
            "layer": video.layer,
            "duration_s": source.duration,
            "timestamps": source.timestamps,
            "warnings": source.warnings,
            "stages_ms": {name: 1e3 * value for name, value in asdict(video.timings).items()},
            "cells": cells,
        }

    def frame(self, key: str, index: int) -> bytes:
        """Return a sampled frame as JPEG.

        Raises:
            ApiError: there is no such video or frame, or its file is gone.
        """
        with self._lock:
            if key not in self._pictures:
                video = self._find(key)
                grid = self._grid(video)
                frames = self._decode(key).frames
                self._pictures[key] = [jpeg(frame, grid) for frame in frames]
            self._pictures.move_to_end(key)
            if len(self._pictures) > _HELD:
                self._pictures.popitem(last=False)
            pictures = self._pictures[key]
        if index not in range(len(pictures)):
            raise ApiError(
                404, f"got frame {index}, expected one below {len(pictures)}.", "frame_not_found"
            )
        return pictures[index]

    def report(self, key: str) -> str:
        """Return the page of `sttm.view.page`.

        Raises:
            ApiError: there is no such video, its file is gone, or all its tokens were kept.
        """
        video = self._find(key)
        if not video.reports:
            raise ApiError(
                409,
                "got a video whose tokens were all kept, expected one that was reduced: there is "
                "nothing to draw. Keep less than 100 %.",
                "not_reduced",
            )
        report, decoded = video.reports[-1], self._decode(key)
        file = self._uploads.of_video(key)
        return page(
            decoded.frames,
            report.plan,
            report.grid,
            decoded.timestamps,
            title="" if file is None else file.filename,
            note=f"{video.method}, before layer {video.layer}",
        )

    def _find(self, key: str) -> PrefilledVideo:
        # A chat without a method takes what any method reduced.
        video = self._store.find(self._chats.get(1.0), key)
        if video is None:
            raise no_video()
        return video

    def _grid(self, video: PrefilledVideo) -> VideoGrid:
        frames = len(video.source.timestamps)
        return video.reports[-1].grid if video.reports else VideoGrid(frames, 1, 1)

    def _decode(self, key: str) -> Video:
        file = self._uploads.of_video(key)
        if file is None:
            raise ApiError(
                404,
                "got a video whose file is not here, expected one of an uploaded file that was not "
                "deleted. Upload the file, and ask about it.",
                "file_not_found",
            )
        return self._chats.reader(self._uploads.path(file.id), **vars(file.videos[key]))


def no_video() -> ApiError:
    """Build the error for the id of no video."""
    return ApiError(
        404, "got the id of no video, expected one that GET /v1/videos lists.", "video_not_found"
    )
