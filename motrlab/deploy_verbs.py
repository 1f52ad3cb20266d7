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
    for name in ("compile", "align", "debug"):
        unbuilt = verbs.add_parser(name, help="not built yet")
        unbuilt.set_defaults(verb=_not_built, name=name)
    _add_check(verbs)
    _add_targets(verbs)
    _add_perf(verbs)


def _add_source(verb: argparse.ArgumentParser, *, preset: bool = False) -> None:
    """What a verb looks at: `stages.graphs.find_graphs` takes these options."""
    what = verb.add_mutually_exclusive_group()
    what.add_argument("--run", default="", metavar="NAME", help="a run's artefact, or its latest stage")
    what.add_argument("--artifact", type=Path, metavar="PATH", help="an artefact's folder")
    if preset:
        what.add_argument("--preset", default="", metavar="P", help="a preset's float network, not trained")


def _add_check(verbs: Any) -> None:
    check = verbs.add_parser("check", help="every layer against a target: fits or not, why, where, what to do")
    _add_source(check, preset=True)
    check.add_argument(
        "--stage", default="", help="of a run: float, calibration, qat, fixed_point (default: its latest)"
    )
    check.add_argument("--target", required=True, metavar="T", help="a name that `targets` lists, path/to/target.json")
    check.add_argument("--json", action="store_true", help="every layer, as JSON")
    check.set_defaults(verb=_check)


def _check(options: argparse.Namespace) -> None:
    from motrlab.deploy.check import UNSUPPORTED, check_layers, format_check
    from motrlab.deploy.layers import layers_of_model
    from motrlab.deploy.target import load_target
    from motrlab.stages.graphs import find_graphs

    target = load_target(options.target)
    source = find_graphs(options.run, options.artifact, options.preset, options.stage)
    layers = {name: layers_of_model(graph, name) for name, graph in source.graphs.items()}
    found = check_layers(layers, target, source.told)
    if options.json:
        print_json(found.json())
    else:
        print(format_check(found))
    if number := found.counts[UNSUPPORTED]:
        first = next(v for v in found.verdicts if v.verdict == UNSUPPORTED)
        told = f"{first.layer.graph} {first.layer.name}: {first.reason}; {first.advice}"
        raise UserError(f"{number} of {len(found.verdicts)} layers are unsupported on {target.name}, first {told}")


def _add_targets(verbs: Any) -> None:
    targets = verbs.add_parser("targets", help="the known targets, where their figures come from, what is assumed")
    targets.set_defaults(verb=_targets)


def _targets(options: argparse.Namespace) -> None:
    from motrlab.deploy.target import format_target, load_target, target_names

    print("\n\n".join(format_target(load_target(name)) for name in target_names()))
    print("\nYour own: --target path/to/target.json, as motrlab/deploy/targets/*.json are.")


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
