"""What the structure of a file says without its times: where it ends, and how often it begins."""

import os
from pathlib import Path
from typing import BinaryIO

_EBML, _SEGMENT = 0x1A45DFA3, 0x18538067  # ids of the file's first two elements
_BOX_HEADER = 8  # bytes in front of the content of an MP4's box
_TAG_HEADER = 11  # bytes in front of the data of an FLV tag


def lacks_bytes(path: Path) -> bool:
    """Return whether a file was cut off; False where its format or its header does not say."""
    with path.open("rb") as file:
        start = file.read(4)
        file.seek(0)
        if start[:3] == b"FLV":
            return _lacks_end_of_tag(file)
        return start == _EBML.to_bytes(4, "big") and _lacks_end_of_segment(file)


def joined_videos(path: Path) -> int:
    """Count the whole MP4 (MOV) files in a file, each with an index; 1 for other formats.

    Fragments, of which many may follow one another, belong to one video.

    Source: ISO/IEC 14496-12, section 4.2: a box is its size and its name, then its content.
    """
    indices = files = place = 0
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while place + _BOX_HEADER <= end:
            file.seek(place)
            size, name = int.from_bytes(file.read(4), "big"), file.read(4)
            if (place == 0 and name != b"ftyp") or name == b"moof":
                return 1
            indices += name == b"moov"
            files += name == b"ftyp"
            if size == 1:  # too large for four bytes
                size = int.from_bytes(file.read(8), "big")
            if size < _BOX_HEADER:
                break
            place += size
    return max(min(indices, files), 1)


def _lacks_end_of_segment(file: BinaryIO) -> bool:
    """Compare the size of a Matroska file with that of its second and last element.

    Source: RFC 8794 (EBML), sections 4 to 6: an id and a size, both of variable length, in front
        of every element; a size of ones only is unknown, as in live recordings.
    """
    _number(file, keep_marker=True)
    header = _number(file)
    if header is None:
        return False
    file.seek(header, os.SEEK_CUR)
    if _number(file, keep_marker=True) != _SEGMENT:
        return False
    size = _number(file)
    return size is not None and file.tell() + size > file.seek(0, os.SEEK_END)


def _lacks_end_of_tag(file: BinaryIO) -> bool:
    """Look for the tag whose size the last four bytes of an FLV file repeat.

    Source: Adobe Flash Video File Format 10.1, annex E.3 and E.4.
    """
    end = file.seek(0, os.SEEK_END)
    file.seek(max(end - 4, 0))
    size = int.from_bytes(file.read(4), "big")
    if not _TAG_HEADER <= size <= end - 4:
        return True
    file.seek(end - 4 - size + 1)
    return int.from_bytes(file.read(3), "big") != size - _TAG_HEADER


def _number(file: BinaryIO, keep_marker: bool = False) -> int | None:
    """Read a number of 1 to 8 bytes: the zeros in front of its first one bit tell how many."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    length = 9 - first[0].bit_length()
    value = int.from_bytes(first + file.read(length - 1), "big")
    if keep_marker:
        return value
    ones = (1 << 7 * length) - 1
    return None if value & ones == ones else value & ones
