"""What the Triton kernel asks of a GPU: compiles it ahead of time, on any machine.

usage: python tools/kernel_resources.py [--arch 80 90 100] [--core] [--classes N] [--json]

Needs no GPU: Triton ships its compiler, ptxas and the disassembler. Each row is one binary, with
the constants and options of the launcher. `--core` compiles two a GPU generation instead of 13.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

ARCHITECTURES = (80, 90, 100)  # Ampere, Hopper, Blackwell
CLASSES = 20
MAPS = (("uint8", "max"), ("float16", "max"), ("float32", "max"), ("float32", "average"))
# Feature type, map type, fusion, map size: all that the settings allow at the default size (the
# average keeps float32 maps), and a larger map, which takes two turns of the loop over cells.
FULL = (
    *((cam, *maps, 41) for cam in ("float32", "float16", "bfloat16") for maps in MAPS),
    ("float32", "uint8", "max", 64),
)
CORE = (("float32", "uint8", "max", 41), ("float32", "float32", "average", 41))
REGISTERS_PER_SM, MOST_WARPS_PER_SM = 65536, 64


def compile_kernel(arch: int, cam: str, bank: str, fusion: str, size: int, classes: int = CLASSES):
    """The compiled kernel of one specialisation, with all its stages in `.asm`.

    Must not run under Triton's interpreter; see main().
    """
    import torch
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.runtime.jit import mangle_type

    from dist_oaa.attention import triton_kernel as kernel

    constants = kernel.constants(size, getattr(torch, bank), fusion, classes, wide=False)
    floats, bools, longs = (
        torch.empty(0, dtype=t) for t in (torch.float32, torch.bool, torch.long)
    )
    tensors = dict.fromkeys(("fallen_ptr", "dirty_ptr", "flags_ptr"), bools)
    tensors |= dict.fromkeys(("cells_ptr", "image_ptr", "class_ptr", "row_ptr"), longs)
    tensors |= dict.fromkeys(("logits_ptr", "geometry_ptr"), floats)
    tensors |= {
        "grid_ptr": torch.empty(0, dtype=getattr(torch, bank)),
        "cam_ptr": torch.empty(0, dtype=getattr(torch, cam)),
        "accepted_ptr": torch.empty(0, dtype=torch.int32),
        "labels_ptr": torch.empty(0, dtype=torch.uint8),
        "threshold": 0.0,
    }

    def kind(parameter) -> str:
        if parameter.is_constexpr:
            return "constexpr"
        return parameter.annotation_type or mangle_type(tensors.get(parameter.name, 0))

    function = kernel.accumulate
    signature = {p.name: kind(p) for p in function.params}
    # The one address whose alignment the launcher vouches for: a bank begins at a fresh tensor.
    aligned = {(function.arg_names.index("grid_ptr"),): [["tt.divisibility", 16]]}
    source = ASTSource(function, signature, constants, aligned)
    return triton.compile(source, target=GPUTarget("cuda", arch, 32), options=kernel.OPTIONS)


def resources(compiled) -> dict[str, int]:
    """Counts from the machine code: registers, spills, memory, instructions."""
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage, code = (
            subprocess.run(
                [str(tools / command[0]), *command[1:], file.name],
                capture_output=True,
                text=True,
                check=True,
            ).stdout
            for command in (["cuobjdump", "--dump-resource-usage"], ["nvdisasm", "-c"])
        )
    used = {key: int(value) for key, value in re.findall(r"(REG|STACK|SHARED):(\d+)", usage)}
    # `/*01a0*/ @!P0 LDG.E.128 R4, ...`: address, perhaps a predicate, the operation.
    operations = re.findall(
        r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\w*[\w.]*)", code, re.M
    )
    count = Counter(operations)
    registers_per_warp = -(-used["REG"] * 32 // 256) * 256  # handed out in units of 256
    warps = min(REGISTERS_PER_SM // registers_per_warp, MOST_WARPS_PER_SM)
    return {
        "registers": used["REG"],
        "spills": sum(n for op, n in count.items() if op.startswith(("LDL", "STL"))),
        "stack_bytes": used["STACK"],
        "shared_bytes": used["SHARED"] + compiled.metadata.shared,
        "pairs_per_sm": warps // compiled.metadata.num_warps,
        "vector_loads": sum(n for op, n in count.items() if re.match(r"LDG\..*128", op)),
        "vector_stores": sum(n for op, n in count.items() if re.match(r"STG\..*128", op)),
        "instructions": sum(count.values()),
    }


def table(rows: list[dict]) -> None:
    """Prints the rows, 80 columns wide."""
    from rich.console import Console
    from rich.table import Table

    columns = {
        "sm": "{arch}",
        "features": "{cam}",
        "maps": "{bank}",
        "fusion": "{fusion}",
        "size": "{map_size}",
        "regs": "{registers}",
        "spills": "{spills}",
        "stack": "{stack_bytes}",
        "shared": "{shared_bytes}",
        "per SM": "{pairs_per_sm}",
        "ld+st": "{vector_loads}+{vector_stores}",
        "code": "{instructions}",
    }
    view = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for heading in columns:
        text = heading in ("features", "maps", "fusion")
        view.add_column(heading, justify="left" if text else "right", no_wrap=True)
    for row in rows:
        view.add_row(*(pattern.format(**row) for pattern in columns.values()))
    console = Console(width=80, highlight=False)
    console.print(view)
    console.print(
        "regs: registers a thread; spills, code: instructions; stack, shared: bytes;\n"
        "per SM: pairs that fit by registers; ld+st: 128-bit words of the maps, a thread"
    )


def main(arguments: list[str]) -> None:
    """Compiles, reads and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", type=int, nargs="+", default=ARCHITECTURES, help="such as 80 90")
    parser.add_argument("--core", action="store_true", help="two binaries a generation, not 13")
    parser.add_argument("--classes", type=int, default=CLASSES, help="classes of the data set")
    parser.add_argument("--json", action="store_true", help="one JSON list instead of a table")
    asked = parser.parse_args(arguments)
    # Read when Triton is imported: under the interpreter nothing compiles.
    os.environ.pop("TRITON_INTERPRET", None)
    rows = []
    for arch in asked.arch:
        for cam, bank, fusion, size in CORE if asked.core else FULL:
            row = {"arch": arch, "cam": cam, "bank": bank, "fusion": fusion, "map_size": size}
            rows.append(
                row | resources(compile_kernel(arch, cam, bank, fusion, size, asked.classes))
            )
    if asked.json:
        print(json.dumps(rows, indent=1))
    else:
        table(rows)


if __name__ == "__main__":
    main(sys.argv[1:])
