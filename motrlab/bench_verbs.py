"""Verbs for a machine with an accelerator: pack-halves before, bench there. Each imports what it needs when it runs."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from motrlab.config.fields import names_of
from motrlab.errors import tell


def add_bench_verbs(verbs: Any) -> None:
    """Their parsers."""
    halves = verbs.add_parser("pack-halves", help="write small copies of prepared halves, to copy to another machine")
    halves.add_argument("--src", type=Path, required=True, metavar="DIR", help="what prepare wrote, or a run")
    halves.add_argument("--dst", type=Path, required=True, metavar="DIR", help="folder for the small copies")
    halves.add_argument("--preset", default="mot17_small", help="preset that will train on them (default: mot17_small)")
    halves.add_argument("--scale", type=float, default=1.0, help="size of pictures, 1 is that of its input (default 1)")
    halves.add_argument("--quality", type=int, default=65, help="quality of the JPEG files, 1 to 100 (default 65)")
    halves.add_argument("--most-mib", type=float, default=40.0, help="largest size of all files together (default 40)")
    halves.set_defaults(verb=_pack_halves)
    verb = verbs.add_parser("bench", help="try a GPU: compare every stage with the CPU, time training steps, train")
    verb.add_argument("--device", required=True, choices=("cuda", "cpu"))
    verb.add_argument("--minutes", type=float, default=9.0, help="time for all pieces together (default 9)")
    verb.add_argument("--data", type=Path, metavar="DIR", help="packed halves (`pack-halves`), needed to train")
    verb.add_argument(
        "--out", type=Path, default=Path("bench"), metavar="DIR", help="results, checkpoints (default: bench)"
    )
    verb.add_argument("--pieces", type=names_of, default=(), metavar="A,B",
                      help="some of agreement, steps, compiled, train (default: all; on cpu not compiled)")  # fmt: skip
    verb.add_argument("--presets", type=names_of, default=("mot17_small", "mot17"), metavar="A,B",
                      help="presets to time steps of; the first is trained (default: mot17_small,mot17)")  # fmt: skip
    verb.add_argument("--set", dest="fields", action="append", default=[], metavar="FIELD=VALUE",
                      help="a field of the presets' configs, such as train.frames_per_step=32")  # fmt: skip
    verb.set_defaults(verb=_bench)


def _bench(options: argparse.Namespace) -> None:
    from motrlab.bench.run import PARTS, Bench, bench

    possible = {"compiled": options.device == "cuda", "train": options.data is not None}
    parts = options.pieces or [part for part in PARTS if possible.get(part, True)]
    given = {name: getattr(options, name) for name in ("device", "minutes", "out", "data", "presets", "fields")}
    table, wrong = bench(Bench(parts=parts, **given))
    print(table)
    if wrong:
        sys.stdout.flush()
        tell(f"motrlab: bench: failed, or not as on the processor: {', '.join(wrong)}; see {table}")
        raise SystemExit(1)


def _pack_halves(options: argparse.Namespace) -> None:
    from motrlab.bench.training import start_bytes
    from motrlab.config import load_preset
    from motrlab.data.halves import pack_halves

    given = {name: getattr(options, name) for name in ("scale", "quality", "most_mib")}
    config = load_preset(options.preset)
    for part, size in pack_halves(options.src, options.dst, config.model, start=start_bytes(config), **given).items():
        print(f"{part}: {size:.1f} MiB")
