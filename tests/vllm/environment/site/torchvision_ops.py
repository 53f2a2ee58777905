"""Let torchvision be imported beside a torch whose build its compiled operators do not fit.

The wheel of torchvision is made for CUDA. Beside the CPU build of torch it does not load its
operators, and then fails where it describes two of them. This declares the two before torchvision
is imported. It is for this test environment only.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_library: list[Any] = []


class _Declare(MetaPathFinder):
    """Declares the operators when torchvision is looked for, and finds nothing itself."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Declare the operators once."""
        if fullname == "torchvision" and not _library:
            from torch.library import Library

            _library.append(Library("torchvision", "DEF"))  # type: ignore[no-untyped-call]
            _library[0].define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
            _library[0].define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return None


sys.meta_path.insert(0, _Declare())
