"""The verbs of deployment: check, compile, perf, align, targets, debug. Each imports what it needs when it runs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from motrlab.errors import UserError


def add_deploy_verbs(verbs: Any) -> None:
    """Their parsers, one function each."""
    for name in ("check", "compile", "targets", "debug"):
        unbuilt = verbs.add_parser(name, help="not built yet")
        unbuilt.set_defaults(verb=_not_built, name=name)
    _add_perf(verbs)
    _add_align(verbs)


def _add_source(verb: argparse.ArgumentParser, *, preset: bool = False) -> None:
    """What a verb looks at: `stages.graphs.find_graphs` takes these options."""
    what = verb.add_mutually_exclusive_group()
    what.add_argument("--run", default="", metavar="NAME", help="a run's artefact, or its latest stage")
    what.add_argument("--artifact", type=Path, metavar="PATH", help="an artefact's folder")
    if preset:
        what.add_argument("--preset", default="", metavar="P", help="a preset's float network, not trained")


def _add_perf(verbs: Any) -> None:
    perf = verbs.add_parser("perf", help="latency of both graphs, of every layer and of each part of the frame step")
    _add_source(perf, preset=True)
    told = "a chip or path/to/target.json: predicted; a host: measured (default: onnxruntime-cpu)"
    perf.add_argument("--target", default="", metavar="T", help=told)
    perf.add_argument("--repeats", type=int, default=50, help="timed calls of each graph (default 50)")
    perf.add_argument(
        "--fps", type=float, default=30.0, help="at which frames come in the rate-limited run (default 30)"
    )
    perf.add_argument("--json", action="store_true", help="the whole result as JSON")
    perf.set_defaults(verb=_perf)


def _perf(options: argparse.Namespace) -> None:
    from motrlab.deploy.target import load_target

    if not (options.run or options.artifact or options.preset):
        options.run = "default"
    target = load_target(options.target or "onnxruntime-cpu")
    if target.kind == "chip" or target.kernels:
        _perf_predicted(options, target)
    else:
        _perf_measured(options, target.name)


def _perf_predicted(options: argparse.Namespace, target: Any) -> None:
    from motrlab.run import Run
    from motrlab.stages.graphs import find_graphs
    from motrlab.stages.prediction import format_performance, predict_run, predict_source

    source = find_graphs(options.run, options.artifact, options.preset)
    if options.run:
        found = predict_run(Run.open(options.run, create=False), source, target)
    else:
        found = predict_source(source, target)
    if options.json:
        print_json(found.json())
    else:
        print(f"{source.told}\n{format_performance(found)}")


def _perf_measured(options: argparse.Namespace, target: str) -> None:
    """On this machine."""
    if options.preset:
        raise UserError("perf: a preset is not measured; give --run NAME or --artifact PATH, or --target a chip")
    if options.artifact:
        from motrlab.deploy.measuring import measure_artifact, street_frames

        frames, how = street_frames(), {"repeats": options.repeats, "design_fps": options.fps}
        found = measure_artifact(options.artifact, None, frames, target=target, **how)[1]
    else:
        from motrlab.run import Run
        from motrlab.stages.chain import require
        from motrlab.stages.deployment import measure_run

        run = Run.open(options.run, create=False)
        require(run, "fixed_point")
        found = measure_run(run, repeats=options.repeats, target=target, design_fps=options.fps)[1]
    if options.json:
        print_json(found.json())
    else:
        print(found.table())


def _add_align(verbs: Any) -> None:
    align = verbs.add_parser("align", help="tracks from raw pictures against those of the evaluation, byte for byte")
    align.add_argument("--run", default="default", metavar="NAME", help="the run's name (default: default)")
    align.add_argument("--nv12", action="store_true", help="the pictures as a camera gives them; not expected equal")
    align.set_defaults(verb=_align)


def _align(options: argparse.Namespace) -> None:
    from motrlab.run import Run
    from motrlab.stages.alignment import align
    from motrlab.stages.chain import require

    run = Run.open(options.run, create=False)
    require(run, "fixed_point")
    metrics = align(run, nv12=options.nv12)
    print_json(metrics)
    if metrics["equal_files"] < metrics["num_files"]:
        sys.stdout.flush()
        raise SystemExit(1)


def print_json(values: Mapping[str, Any]) -> None:
    """JSON has no NaN: a metric without a value is null."""
    print(json.dumps(json.loads(json.dumps(values), parse_constant=lambda _: None), indent=2))


def _not_built(options: argparse.Namespace) -> None:
    raise UserError(f"{options.name}: not built yet; `python -m motrlab --help` lists what is")
