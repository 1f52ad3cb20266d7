"""How long both graphs take to compile for the hosts, and how large they are; loaded again, their bits are compared.

    OMP_NUM_THREADS=1 python benchmarks/compile_hosts.py [--preset mot17]
    OMP_NUM_THREADS=1 python benchmarks/compile_hosts.py --artifact runs/demo/artifact

A preset's weights are random, calibrated on noise: neither time nor size depends on them. Ends with status 1 where a
host takes a minute or more, or where its files or the artefact have 60 MB or more.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
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
            fits = [report(host, artifact, folder / host) for host in HOSTS]
        except UserError as error:
            sys.exit(str(error))
    sys.exit(int(not all(fits) or stored >= MEGABYTES))


def report(host: str, artifact: Path, out: Path) -> bool:
    """Print a host's seconds and megabytes; whether both are what was asked for."""
    told = compile_artifact(artifact, host, out, images=noise(FULL_HD, 2))
    seconds, megabytes = (dict(told["seconds"]), {n: f["bytes"] / 1e6 for n, f in told["files"].items()})
    sizes = ", ".join(f"{name} {size:.1f} MB" for name, size in megabytes.items())
    times = ", ".join(f"{graph} {value:.1f} s" for graph, value in seconds.items())
    print(f"{host}: {sum(seconds.values()):.1f} s ({times}); {sum(megabytes.values()):.1f} MB ({sizes})")
    for file, found in told["checked"].items():
        print(f"  {file}: {found}")
    return sum(seconds.values()) < SECONDS and sum(megabytes.values()) < MEGABYTES


if __name__ == "__main__":
    main()
