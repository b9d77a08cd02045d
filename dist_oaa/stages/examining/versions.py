"""Which versions are installed, whether they are those that dist_oaa needs, and whether they load.

A package that is installed may still not load: for want of a system library, or beside a torch of
another version.
"""

import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import TYPE_CHECKING

from dist_oaa import __version__
from dist_oaa.stages.examining.asking import Answer
from dist_oaa.stages.examining.finding import Finding

if TYPE_CHECKING:
    from packaging.requirements import Requirement

IMPORTED = {
    "torch": "torch",
    "torchvision": "torchvision",
    "triton": "triton",
    "lmdb": "lmdb",
    "opencv": "cv2",
    "isal": "isal",
}
"""Packages that are loaded to see whether they can be: name here -> module."""
READ = ("timm", "numpy")
"""Packages whose version is read: they load wherever torchvision does."""
OPTIONAL = {
    "ray": "oaa tune",
    "onnx": "oaa export",
    "matplotlib": "oaa report",
    "pydensecrf2": "a dense CRF",
    "segmentation-models-pytorch": "network.architecture smp:NAME",
    "rembg": "oaa saliency --method rembg",
}
ON_GPUS_ONLY = ("triton",)
AGAIN = "Install dist_oaa again in a new environment (make env, or pip install)."


def this_program() -> list[Finding]:
    """dist_oaa and the Python that runs it."""
    return [
        Finding("dist_oaa", __version__),
        Finding("Python", f"{platform.python_version()}, {sys.executable}"),
    ]


def loaded(imports: Mapping[str, Answer]) -> list[Finding]:
    """The packages of IMPORTED.

    Args:
        imports: by name, the answers to `import`.
    """
    found = []
    for name, answer in imports.items():
        missing = answer.error.startswith("ModuleNotFoundError")
        if not answer.error:
            found.append(Finding(name, answer.value or "of unknown version"))
        elif missing and name in ON_GPUS_ONLY:
            found.append(Finding(name, "not installed; only GPUs need it"))
        else:
            found.append(Finding(name, f"cannot be loaded: {answer.error}", "problem", AGAIN))
    return found


def read() -> list[Finding]:
    """The packages of READ and OPTIONAL."""
    found = [Finding(name, installed(name) or "not installed") for name in READ]
    for name, user in OPTIONAL.items():
        version = installed(name)
        found.append(Finding(name, version or f"not installed; only {user} needs it"))
    return found


def installed(name: str) -> str:
    """The version of a package; empty where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def requirements() -> Finding:
    """Holds what is installed against what dist_oaa asks for."""
    # Another package's dependency: where it is missing, this check fails and no other.
    from packaging.requirements import Requirement

    try:
        wanted = [Requirement(line) for line in metadata.requires("dist_oaa") or []]
    except metadata.PackageNotFoundError:
        return Finding("requirements", "not known: dist_oaa runs from its sources, not installed")
    # An extra's requirements have a marker that is false without it.
    wanted = [r for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    wrong = [sentence for sentence in map(_unmet, wanted) if sentence]
    if wrong:
        return Finding("requirements", "; ".join(wrong), "problem", AGAIN)
    return Finding("requirements", f"all {len(wanted)} packages are there, new enough")


def _unmet(wanted: "Requirement") -> str:
    version = installed(wanted.name)
    if not version:
        return f"{wanted.name} is not installed"
    if not wanted.specifier.contains(version, prereleases=True):
        return f"{wanted.name} is {version}, expected {wanted.specifier}"
    return ""
