"""Run by test_triton_compiled.py in a process of its own: the real launcher, up to the launch.

Triton compiles for a GPU that is not there and stops before it would start the kernel. Prints,
as JSON, how many binaries were made and what is in the first.
"""

import hashlib
import json
import re
from collections import Counter

import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from cases import single
from dist_oaa.attention import triton_kernel
from dist_oaa.attention.bank import MapBank
from dist_oaa.attention.batch import Rules
from kernel_steps import cast, random_steps


class Absent:
    """The driver of a GPU of which only the kind is known."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


def digest(binary) -> str:
    """Of the machine code."""
    return hashlib.sha256(binary.asm["cubin"]).hexdigest()


def main() -> None:
    driver.set_active(Absent())
    kernel, compiled = triton_kernel.accumulate, []
    launch = kernel.run
    kernel.run = lambda *a, grid, warmup, **k: compiled.append(
        launch(*a, grid=grid, warmup=True, **k)
    )

    def binaries() -> int:
        return len(kernel.device_caches[0][0])

    bank = MapBank.empty(9, 41, torch.uint8)
    for rule in (Rules(), Rules("topk", 0.3, "max", True), Rules("prob", 1.0), Rules("none")):
        for shape in ((1, 1), (16, 16), (28, 37), (1, 1000)):
            for step in random_steps(shape, classes=20):
                for channels_last in (False, True):
                    triton_kernel.update(bank, cast(step, torch.float32, channels_last), rule)
    shifted = random_steps((4, 5), classes=17)[0]  # also fewer classes, and odd addresses
    shifted.cam_BCHW = torch.zeros(shifted.cam_BCHW.numel() + 1)[1:].view(shifted.cam_BCHW.shape)
    triton_kernel.update(bank, shifted, Rules())
    facts = {"binaries for any input": binaries(), "code": digest(compiled[0])}
    for fusion, size in (("average", 41), ("max", 9)):
        triton_kernel.update(
            MapBank.empty(9, size, torch.uint8), single(torch.ones(2, 2)), Rules(fusion=fusion)
        )
    facts["binaries with another fusion and another size"] = binaries()

    ptx, ttir = compiled[0].asm["ptx"], compiled[0].asm["ttir"]
    facts["instructions"] = Counter(re.findall(r"^\s+(?:@!?%p\d+ )?([a-z]+\.[\w.:]+)", ptx, re.M))
    row = re.search(r"%(\S+) = tt.load %row\b.*ptr<i64>", ttir).group(1)
    facts["row arithmetic"] = re.findall(rf"arith\.muli %{row}, \S+ : (i\d+)", ttir)
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
