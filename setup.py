"""The compiled kernels, as an extension that may fail to build: everything runs without it."""

from pathlib import Path

from setuptools import Extension, setup

FLAGS = ["-std=c99", "-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-pthread"]
SOURCES = sorted(str(path) for path in Path("src/tallystick/exact/native").glob("*.c"))

setup(
    ext_modules=[
        Extension(
            "tallystick.exact.native._library",
            SOURCES,
            depends=sorted(str(path) for path in Path("src/tallystick/exact/native").glob("*.h")),
            extra_compile_args=FLAGS,
            extra_link_args=["-pthread"],
            optional=True,
        )
    ]
)
