"""Whether Triton compiles a kernel here; answered in a process of its own."""

import os
import shutil
from typing import Any

# A cached binary would prove nothing. Triton reads this when it compiles.
os.environ.setdefault("TRITON_ALWAYS_COMPILE", "1")

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

WITHOUT_GPU = 80
"""Compute capability that is compiled for where there is no GPU: Ampere."""


@triton.jit
def double(values_ptr, count, BLOCK: tl.constexpr):
    """The smallest kernel that loads, computes and stores."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = place < count
    tl.store(values_ptr + place, 2 * tl.load(values_ptr + place, mask=known), mask=known)


def compilation() -> dict[str, Any]:
    """Compiles a kernel for the first GPU, or for one that is not there."""
    compilers = (os.environ.get("CC", ""), "gcc", "clang", "cc")
    compiler = next((name for name in compilers if name and shutil.which(name)), "")
    facts = {"interpreted": os.environ.get("TRITON_INTERPRET", "0") not in ("", "0")}
    facts |= {"c_compiler": compiler, "target": "", "error": ""}
    if facts["interpreted"]:
        return facts
    target = GPUTarget("cuda", _capability(), 32)
    signature = {"values_ptr": "*fp32", "count": "i32", "BLOCK": "constexpr"}
    try:
        source = ASTSource(fn=double, signature=signature, constexprs={"BLOCK": 128})
        binary = triton.compile(source, target=target)
        facts["target"] = f"sm_{target.arch}" if binary.asm["cubin"] else ""
    except Exception as error:
        facts["error"] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return facts


def _capability() -> int:
    import torch

    if not torch.cuda.is_available():
        return WITHOUT_GPU
    major, minor = torch.cuda.get_device_capability(0)
    return 10 * major + minor
