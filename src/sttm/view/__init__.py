"""Draw merged videos: a sheet of frames, frames for a video, a page to look around in.

Only needs a plan and the frames it was made for: no model, no transformers.
"""

from sttm.view.cells import Cells, find_cells
from sttm.view.overlay import overlay
from sttm.view.page import page
from sttm.view.sheet import sheet

__all__ = ["Cells", "find_cells", "overlay", "page", "sheet"]
