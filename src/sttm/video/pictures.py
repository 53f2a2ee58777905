"""Files that are pictures, not videos: told by their first bytes."""

from pathlib import Path

_BRANDS = {
    "AVIF": (b"avif", b"avis"),
    "HEIC": (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"),
}
_STARTS: dict[str, tuple[bytes, ...]] = {
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "JPEG": (b"\xff\xd8\xff",),
    "GIF": (b"GIF8",),
    "TIFF": (b"II*\0", b"MM\0*"),
    "BMP": (b"BM",),
    "ICO": (b"\0\0\1\0",),
    "JPEG XL": (b"\xff\x0a", b"\0\0\0\x0cJXL "),
}


def picture_format(path: Path) -> str | None:
    """Name the picture format of a file, e.g. ``"WebP"``; None when it is something else."""
    with path.open("rb") as file:
        head = file.read(16)
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    for name, brands in _BRANDS.items():
        if head[4:8] == b"ftyp" and head[8:12] in brands:
            return name
    return next((name for name, start in _STARTS.items() if head.startswith(start)), None)


def picture_advice(name: str) -> str:
    """Say what to do with a picture that libav cannot read."""
    return (
        f"got a {name} picture that libav cannot read, expected a video. Convert it to GIF or MP4 "
        "if it moves, to PNG if it does not, for example with ImageMagick."
    )
