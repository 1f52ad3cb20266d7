"""The verbs of deployment: check, compile, perf, align, targets, debug. Each imports what it needs when it runs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from motrlab.errors import UserError
from motrlab.names import CHAIN


def add_deploy_verbs(verbs: Any) -> None:
    """Their parsers, one function each."""
    _add_check(verbs)
    _add_targets(verbs)
    _add_perf(verbs)
    _add_align(verbs)
    _add_debug(verbs)
    _add_sensitivity(verbs)
    _add_compile(verbs)
    _add_handover(verbs)


class _Named(argparse.Action):
    """What a user names is looked at, and not the run `default`."""

    def __call__(self, _: Any, options: argparse.Namespace, value: Any, __: str | None = None) -> None:
        options.run = ""
        setattr(options, self.dest, value)


def _add_source(verb: argparse.ArgumentParser, *, artifact: bool = True, preset: bool = False) -> None:
    """What a verb looks at: `stages.graphs.find_graphs` takes these options. Without any: the run `default`."""
    what = verb.add_mutually_exclusive_group()
    what.add_argument(
        "--run", action=_Named, default="default", metavar="NAME", help="a run (default: the run default)"
    )
    if artifact:
        told = "an artefact's folder, instead of a run"
        what.add_argument("--artifact", action=_Named, type=Path, metavar="PATH", help=told)
    if preset:
        told = "the network of a preset, not trained, instead of a run"
        what.add_argument("--preset", action=_Named, default="", metavar="P", help=told)


def _add_check(verbs: Any) -> None:
    check = verbs.add_parser("check", help="check every layer against a target: does it fit, why not, what to do")
    _add_source(check, preset=True)
    told = "of a run (default: the latest); of a preset: float"
    check.add_argument("--stage", choices=CHAIN[1:], default="", help=told)
    check.add_argument(
        "--target", required=True, metavar="T", help="a name that `targets` lists, or path/to/target.json"
    )
    check.add_argument("--json", action="store_true", help="print every layer, as JSON")
    check.set_defaults(verb=_check)


def _check(options: argparse.Namespace) -> None:
    from motrlab.deploy.check import UNSUPPORTED, check_layers, format_check
    from motrlab.deploy.layers import layers_of_model
    from motrlab.deploy.target import load_target
    from motrlab.stages.graphs import find_graphs

    if options.stage and options.artifact:
        raise UserError("check: --stage is of a run: give --run NAME, or leave --stage out")
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
    targets = verbs.add_parser("targets", help="list the known targets, with the sources of their figures")
    told = "measure this machine and write a target file (micro-benchmarks, about a minute, one thread)"
    targets.add_argument("--describe-host", type=Path, metavar="FILE", help=told)
    targets.set_defaults(verb=_targets)


def _targets(options: argparse.Namespace) -> None:
    from motrlab.deploy.target import format_target, load_target, target_names

    if options.describe_host:
        from motrlab.deploy.describe_host import describe_host
        from motrlab.files import writing

        if options.describe_host.suffix != ".json":  # what `--target` knows a file by
            raise UserError(f"{options.describe_host}: give a name that ends in .json")
        if options.describe_host.exists() and not load_target(str(options.describe_host)).kernels:
            raise UserError(f"{options.describe_host}: exists and describes no host; give another name")
        with writing(options.describe_host):  # before a minute of measuring
            options.describe_host.parent.mkdir(parents=True, exist_ok=True)
        print(format_target(describe_host(options.describe_host)))
        print(f"\nPredict with it: python -m motrlab perf --run NAME --target {options.describe_host}")
        return
    print("\n\n".join(format_target(load_target(name)) for name in target_names()))
    print("\nYour own: --target path/to/target.json, in the form of motrlab/deploy/targets/*.json.")


def _add_perf(verbs: Any) -> None:
    perf = verbs.add_parser("perf", help="measure or predict latency: both graphs, every layer, each part of a frame")
    _add_source(perf, preset=True)
    told = "a chip or path/to/target.json: predict; a host: measure here (default: onnxruntime-cpu)"
    perf.add_argument("--target", default="", metavar="T", help=told)
    perf.add_argument("--repeats", type=int, default=50, help="timed calls of each graph (default 50)")
    perf.add_argument("--fps", type=float, default=30.0, help="frames a second in the rate-limited run (default 30)")
    perf.add_argument("--json", action="store_true", help="print the whole result as JSON")
    perf.set_defaults(verb=_perf)


def _perf(options: argparse.Namespace) -> None:
    from motrlab.deploy.target import load_target

    target = load_target(options.target or "onnxruntime-cpu")
    if target.kind == "chip" or target.kernels:
        _perf_predicted(options, target)
    else:
        _perf_measured(options, target.name)
    if options.run:
        from motrlab.report.latency import render_latency
        from motrlab.run import Run

        print(render_latency(Run.open(options.run, create=False)), file=sys.stderr)


def _perf_predicted(options: argparse.Namespace, target: Any) -> None:
    from motrlab.run import Run
    from motrlab.stages.graphs import find_graphs
    from motrlab.stages.prediction import predict_run, predict_source, prediction_text

    source = find_graphs(options.run, options.artifact, options.preset, "float" if options.preset else "")
    if options.run:
        found = predict_run(Run.open(options.run, create=False), source, target)
    else:
        found = predict_source(source, target)
    if options.json:
        print_json(found.json())
    else:
        print(prediction_text(source, found))


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
    align = verbs.add_parser("align", help="compare tracks from raw pictures with the evaluation's, byte for byte")
    _add_source(align, artifact=False)
    align.add_argument("--nv12", action="store_true", help="use NV12 frames, as from a camera: tracks differ a little")
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


def _add_debug(verbs: Any) -> None:
    debug = verbs.add_parser("debug", help="write one layer as an ONNX file, with its inputs and outputs")
    _add_source(debug)
    debug.add_argument("--layer", required=True, metavar="NAME", help="its name in `check --json`, or its module")
    debug.add_argument("--graph", choices=("base", "qim"), default="", help="needed if both graphs have the name")
    debug.add_argument("--float", action="store_true", help="take the run's fp32 graphs, not the artefact's")
    debug.add_argument("--frame", type=int, default=8, metavar="N", help="frame of the closed loop, from 1 (default 8)")
    debug.add_argument("--out", type=Path, default=Path("layer"), metavar="DIR", help="default: layer")
    debug.set_defaults(verb=_debug)


def _debug(options: argparse.Namespace) -> None:
    from motrlab.stages.debugging import cut_of_artifact, cut_of_run

    where = (options.layer, options.graph, options.frame, options.out)
    if options.run:
        print(cut_of_run(options.run, *where, floats=options.float))
    elif options.artifact and not options.float:
        print(cut_of_artifact(options.artifact, *where))
    else:
        raise UserError("debug: --float is of a run: an artefact has no fp32 graphs; give --run NAME")


def _add_sensitivity(verbs: Any) -> None:
    verb = verbs.add_parser("sensitivity", help="find parts that lose accuracy in int8, and which to leave in float")
    _add_source(verb, artifact=False)
    what = "stop when MOTA is at most P points below float's"
    verb.add_argument("--max-drop-mota", type=float, metavar="P", help=what)
    share = "largest share of multiply-accumulates in float (default .1; with --max-drop-mota 1)"
    verb.add_argument("--max-float-share", type=float, metavar="S", help=share)
    verb.add_argument(
        "--frames", type=int, default=0, metavar="N", help="frames of the train halves, to measure errors"
    )
    clips = "frames of each test video, to measure MOTA (default: the same number)"
    verb.add_argument("--clip-frames", type=int, default=0, metavar="N", help=clips)
    verb.set_defaults(verb=_sensitivity)


def _sensitivity(options: argparse.Namespace) -> None:
    from motrlab.run import Run
    from motrlab.stages.chain import require
    from motrlab.stages.sensitivity import format_search, measure_sensitivity

    run = Run.open(options.run, create=False)
    require(run, "calibration")
    share, drop = options.max_float_share, options.max_drop_mota
    limits = {"max_float_share": share, "max_drop_mota": drop}
    given = {name: value for name, value in limits.items() if value is not None}
    record = measure_sensitivity(run, num_frames=options.frames, clip_frames=options.clip_frames, **given)
    print(format_search(run, record["metrics"]))


def _add_compile(verbs: Any) -> None:
    verb = verbs.add_parser("compile", help="write what a target runs, and compile.json")
    _add_source(verb)
    verb.add_argument("--target", required=True, metavar="T", help="a host, or a chip with a public compiler")
    verb.add_argument("--out", type=Path, metavar="DIR", help="default: compiled/T next to the artefact")
    verb.add_argument("--native", action="store_true", help="a host's own int8 kernels, which are not exact")
    verb.add_argument("--option", dest="options", action="append", default=[], type=_key_value, metavar="NAME=VALUE",
                      help="option of the vendor's compiler, such as soc_model=57; may be repeated")  # fmt: skip
    verb.set_defaults(verb=_compile)


def _key_value(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _compile(options: argparse.Namespace) -> None:
    from motrlab.stages.compilation import compile_source

    told, folder = compile_source(
        options.target,
        run=options.run,
        artifact=options.artifact,
        out=options.out,
        native=options.native,
        options=dict(options.options),
    )
    for name, file in told["files"].items():
        print(f"{name}: {file['bytes'] / 1e6:.3g} MB")
    for what, found in told["checked"].items():
        print(f"{what}: {found if isinstance(found, str) else agreement_text(found)}")
    print(folder / "compile.json")


def agreement_text(found: Mapping[str, float]) -> str:
    """Of a form that is not exact."""
    return f"{found['sqnr_db']:.1f} dB against the artefact, {found['equal']:.1%} of the values equal"


def _add_handover(verbs: Any) -> None:
    verb = verbs.add_parser("handover", help="write a folder with what a vendor's toolchain needs")
    _add_source(verb, artifact=False)
    what = verb.add_mutually_exclusive_group(required=True)
    what.add_argument("--target", default="", metavar="T", help="a chip: the toolchain that compiles for it")
    what.add_argument("--toolchain", default="", metavar="X", help="aimet, horizon, qnn or onnx")
    verb.add_argument("--out", type=Path, metavar="DIR", help="default: handover/X next to the run's artefact")
    verb.add_argument("--samples", type=int, default=32, metavar="N", help="frames to calibrate with (default 32)")
    verb.set_defaults(verb=_handover)


def _handover(options: argparse.Namespace) -> None:
    from motrlab.run import Run
    from motrlab.stages.compilation import hand_over

    run = Run.open(options.run, create=False)
    print(hand_over(run, options.target, options.toolchain, out=options.out, num_samples=options.samples))


def print_json(values: Mapping[str, Any]) -> None:
    """JSON has no NaN: a metric without a value is null."""
    print(json.dumps(json.loads(json.dumps(values), parse_constant=lambda _: None), indent=2))
