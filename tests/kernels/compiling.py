"""Compiles the kernels for a GPU that is not here, and tells the instructions of their code."""

import re

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from sttm.kernels import pair_cosines, pooled_scores, segment_sums
from sttm.kernels.folding import folding

_CHANNELS = 896
_POINTERS = {
    "fine_ptr": "*bf16", "child_ptr": "*bf16", "rows_ptr": "*bf16", "out_ptr": "*bf16",
    "square_ptr": "*fp64", "child_square_ptr": "*fp64", "parent_square_ptr": "*fp64",
    "one_ptr": "*i64", "other_ptr": "*i64", "token_ptr": "*i64", "offset_ptr": "*i64",
    "wanted_ptr": "*i1",
}  # fmt: skip
_ROWS = {"CHANNELS": _CHANNELS, "HEADS": 1, **folding(_CHANNELS, 1)}
_KERNELS = {
    pooled_scores._pooled_scores: {**_ROWS, "WEIGHTED": True, "PUBLISHED": False},
    pair_cosines._pair_cosines: {**_ROWS, "PAIRS": 4},
    segment_sums._segment_sums: {"DTYPE": triton.language.float32, "AHEAD": 4, "BLOCK": 512},
}


def report(capability: int) -> None:
    """Print a line per kernel: its name, a colon, the arithmetic of its code."""
    for kernel, constants in _KERNELS.items():
        kinds = {
            name: "constexpr" if name in constants
            else _POINTERS.get(name, "*fp32" if name.endswith("_ptr") else "i32")
            for name in kernel.arg_names
        }  # fmt: skip
        compiled = triton.compile(
            ASTSource(kernel, kinds, constants),
            target=GPUTarget("cuda", capability, 32),
            options={"enable_fp_fusion": False},
        )
        used = re.findall(r"\b(?:fma|mul|add|sqrt|div|rsqrt)\.[\w.]+", compiled.asm["ptx"])
        print(f"{kernel.__name__}: {' '.join(sorted(set(used)))}")
