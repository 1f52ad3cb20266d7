"""How long both graphs take to compile for the hosts, and how large they are; loaded again, their bits are compared.

    OMP_NUM_THREADS=1 python benchmarks/compile_hosts.py [--preset mot17]
    OMP_NUM_THREADS=1 python benchmarks/compile_hosts.py --artifact runs/demo/artifact

A preset's weights are random, calibrated on noise: neither time nor size depends on them. Ends with status 1 where a
host takes a minute or more, or where the artefact has 60 MB or more. What OpenVINO compiles has weights in float32 (it
runs the integers in plain operators), so it is larger than the artefact.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from fixed_point_vs_fp32 import FULL_HD, noise, processor, write_files

from motrlab.config.presets import PRESETS, load_preset
from motrlab.deploy.compile import compile_artifact
from motrlab.errors import UserError

HOSTS = ("onnxruntime-cpu", "openvino-cpu")
SECONDS, MEGABYTES = 60, 60  # asked for, of `mot17`


def main() -> None:
    parser = argparse.ArgumentParser(description="compile time and size of both graphs for the hosts")
    parser.add_argument("--preset", choices=PRESETS, default="mot17")
    parser.add_argument("--artifact", type=Path, help="an artefact instead")
    options = parser.parse_args()
    print(f"{processor()}; {options.artifact or options.preset}")
    with tempfile.TemporaryDirectory() as temporary:
        folder, frames = Path(temporary), list(noise(FULL_HD, 2))
        artifact = options.artifact or write_files(load_preset(options.preset), frames, folder)[0]
        stored = sum(path.stat().st_size for path in artifact.iterdir()) / 1e6
        print(f"artefact {stored:.1f} MB")
        try:
            seconds = [report(host, artifact, folder / host) for host in HOSTS]
        except UserError as error:
            sys.exit(str(error))
    sys.exit(int(max(seconds) >= SECONDS or stored >= MEGABYTES))


def report(host: str, artifact: Path, out: Path) -> float:
    """Print a host's seconds and megabytes; returns the seconds of both graphs."""
    started = time.process_time()
    told = compile_artifact(artifact, host, out, images=noise(FULL_HD, 2))
    used, total = time.process_time() - started, sum(told["seconds"].values())
    times = ", ".join(f"{graph} {value:.1f} s" for graph, value in told["seconds"].items())
    print(f"{host}: {total:.1f} s ({times}); with the checks {used:.1f} s of processor time")
    for name, file in told["files"].items():
        print(f"  {name}: {file['bytes'] / 1e6:.1f} MB, {told['checked'][name]}")
    return total


if __name__ == "__main__":
    main()
