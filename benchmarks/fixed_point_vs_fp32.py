"""Fixed-point graphs against fp32 graphs of the same network, both on ONNX Runtime, call by call in turn.

    python benchmarks/fixed_point_vs_fp32.py --run demo

Prints the ratio for each graph and thread count, and the parts of the closed frame step. The inputs are real frames of
the run's first test video. Needs a run that has been converted (notebook 05).
"""

from __future__ import annotations

import argparse
import sys

from motrlab.errors import UserError
from motrlab.run import Run
from motrlab.stages.chain import require
from motrlab.stages.deployment import measure_performance


def main() -> None:
    parser = argparse.ArgumentParser(description="fixed-point against fp32, side by side in one run")
    parser.add_argument("--run", default="demo")
    parser.add_argument("--repeats", type=int, default=100)
    options = parser.parse_args()
    try:
        run = Run.open(options.run, create=False)
        require(run, "fixed_point")
    except UserError as error:
        sys.exit(str(error))
    metrics = measure_performance(run, repeats=options.repeats)
    for threads, prefix in ((1, ""), (2, "threads_2.")):
        for graph in ("base", "qim"):
            kinds = ("fixed_point", "float_functions", "fp32")
            fixed, fast, floating = (metrics[f"{prefix}{graph}.{kind}.p50_ms"] for kind in kinds)
            ratio = f"fp32 {floating:.3f} ms, fixed-point {fixed:.3f} ms: {floating / fixed:.2f}×"
            ratio += f"; its functions in float32 {fast:.3f} ms: {floating / fast:.2f}×"
            print(f"{threads} thread(s) {graph:<5} {ratio}")
    parts = {part: metrics[f"step.{part}.p50_ms"] for part in ("preprocess", "base", "tracker", "qim", "total")}
    print("frame step, 1 thread:", ", ".join(f"{part} {value:.3f} ms" for part, value in parts.items()))


if __name__ == "__main__":
    main()
