"""Rockchip's compiler in a process, and in a Python, of its own, through the package `rknn-toolkit2`.

    python rknn_tool.py MODEL.onnx RESULT.rknn rk3588

float16. What it prints last is the package's version, or what went wrong.
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Any


def compile_model(model: str, result: str, platform: str) -> None:
    """Raises RuntimeError naming the step that failed."""
    from rknn.api import RKNN

    rknn: Any = RKNN(verbose=False)
    rknn.config(target_platform=platform)
    steps = {
        "load_onnx": lambda: rknn.load_onnx(model=model),
        "build": lambda: rknn.build(do_quantization=False),
        "export_rknn": lambda: rknn.export_rknn(result),
    }
    for name, step in steps.items():
        if (status := step()) != 0:
            raise RuntimeError(f"{name} of {model} returned {status}")
    rknn.release()


if __name__ == "__main__":
    compile_model(*sys.argv[1:])
    print(version("rknn-toolkit2"))
