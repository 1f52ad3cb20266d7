"""The verbs of deployment: check, compile, perf, align, targets, debug. Each imports what it needs when it runs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from motrlab.errors import UserError


def add_deploy_verbs(verbs: Any) -> None:
    """Their parsers, one function each."""
    for name in ("check", "compile", "align", "targets", "debug"):
        unbuilt = verbs.add_parser(name, help="not built yet")
        unbuilt.set_defaults(verb=_not_built, name=name)
    _add_perf(verbs)


def _add_source(verb: argparse.ArgumentParser, *, preset: bool = False) -> None:
    """What a verb looks at: `stages.graphs.find_graphs` takes these options."""
    what = verb.add_mutually_exclusive_group()
    what.add_argument("--run", default="", metavar="NAME", help="a run's artefact, or its latest stage")
    what.add_argument("--artifact", type=Path, metavar="PATH", help="an artefact's folder")
    if preset:
        what.add_argument("--preset", default="", metavar="P", help="a preset's float network, not trained")


def _add_perf(verbs: Any) -> None:
    perf = verbs.add_parser("perf", help="latency of both graphs and of each part of the frame step")
    _add_source(perf, preset=True)
    perf.add_argument(
        "--target", default="", metavar="T", help="a chip or path/to/target.json: predicted; else measured"
    )
    perf.add_argument("--json", action="store_true", help="all of it as JSON")
    perf.set_defaults(verb=_perf)


def _perf(options: argparse.Namespace) -> None:
    from motrlab.deploy.target import load_target

    if not (options.run or options.artifact or options.preset):
        options.run = "default"
    target = load_target(options.target) if options.target else None
    if target is not None and (target.kind == "chip" or target.kernels):
        _perf_predicted(options, target)
    else:
        _perf_measured(options)


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


def _perf_measured(options: argparse.Namespace) -> None:
    from motrlab.run import Run
    from motrlab.stages.chain import require
    from motrlab.stages.deployment import measure_performance

    if not options.run:
        raise UserError("perf: only a run is measured; give --run NAME, or --target a chip or path/to/target.json")
    run = Run.open(options.run, create=False)
    require(run, "fixed_point")
    print_json(measure_performance(run))


def print_json(values: Mapping[str, Any]) -> None:
    """JSON has no NaN: a metric without a value is null."""
    print(json.dumps(json.loads(json.dumps(values), parse_constant=lambda _: None), indent=2))


def _not_built(options: argparse.Namespace) -> None:
    raise UserError(f"{options.name}: not built yet; `python -m motrlab --help` lists what is")
