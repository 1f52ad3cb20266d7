"""The command line: `python -m motrlab VERB ...`; `--help` after a verb tells its options.

Exit status 0 on success; 2 for a user's mistake, with one line on stderr; 1 for anything else. Each verb imports what
it needs when it runs, so that `--help` and `eval-files` do not wait for torch.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from motrlab.bench_verbs import add_bench_verbs
from motrlab.config.fields import names_of
from motrlab.deploy_verbs import add_deploy_verbs, print_json
from motrlab.errors import UserError, exit_status
from motrlab.evaluation.protocols import PROTOCOLS
from motrlab.names import EVALUATED
from motrlab.run import Run, project_root


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit status. A warning is one line, without the place in the source."""
    told = warnings.formatwarning
    warnings.formatwarning = lambda message, *_args, **_more: f"motrlab: {message}\n"
    try:
        return exit_status(lambda: _main(arguments))
    finally:
        warnings.formatwarning = told


def _main(arguments: Sequence[str] | None) -> None:
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    options.verb(options)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _size(text: str) -> tuple[int, int]:
    """`1920x1080` → height and width."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not WIDTHxHEIGHT, as 1920x1080")
    return _positive(height), _positive(width)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="motrlab", description="From raw MOT17 to a fixed-point tracker. VERB --help lists its options."
    )
    verbs = parser.add_subparsers(title="verbs", required=True, metavar="VERB")
    _add_run_verb(verbs)
    _add_file_verbs(verbs)
    _add_stage_verbs(verbs)
    add_deploy_verbs(verbs)
    compare = verbs.add_parser("compare", help="compare runs: a table, and reports/compare/A-B/index.html")
    compare.add_argument("runs", nargs="+", metavar="RUN", help="the others are compared with the first")
    compare.set_defaults(verb=_compare)
    ship = verbs.add_parser("ship", help="copy a street run's weights, artefact and picture here (`make weights`)")
    ship.add_argument("--run", default="demo", metavar="NAME", help="a finished run of preset street (default: demo)")
    ship.set_defaults(verb=_ship)
    doctor = verbs.add_parser("doctor", help="print versions, processor features and folders, for a bug report")
    doctor.set_defaults(verb=_doctor)
    return parser


def _add_run_verb(verbs: Any) -> None:
    run = verbs.add_parser("run", help="run the notebooks in order")
    run.add_argument(
        "--preset", default="", help="smoke, street, mot17_small, mot17_long, mot17 or path/to/file.py:function"
    )
    run.add_argument("--run", default="default", metavar="NAME", help="the run's name (default: default)")
    run.add_argument("--data-root", metavar="DIR", help="folder of MOTChallenge sequences (default: embedded videos)")
    run.add_argument("--sequences", type=names_of, default=(), metavar="A,B", help="only these sequences")
    run.add_argument("--from", dest="first", metavar="N", help="first notebook to run, by number or name")
    run.add_argument("--to", dest="last", metavar="N", help="last notebook to run, by number or name")
    run.add_argument("-p", dest="parameters", action="append", default=[], metavar="name=value",
                     help="a notebook's parameter; 04_qat.name=value names the notebook")  # fmt: skip
    run.add_argument("--set", dest="fields", action="append", default=[], metavar="FIELD=VALUE[,VALUE]",
                     help="a field of the config, such as train.lr=1e-3; several: a run each, compared")  # fmt: skip
    run.add_argument(
        "--jobs", type=_positive, default=1, metavar="N", help="runs to execute at the same time (default 1)"
    )
    run.set_defaults(verb=_run)

    train = verbs.add_parser("train", help="float training of a run, alone or with `torchrun -m -- motrlab train`")
    what = train.add_mutually_exclusive_group()
    what.add_argument("--run", default="default", metavar="NAME", help="the run's name (default: default)")
    what.add_argument("--replay", type=Path, metavar="FILE", help="repeat a saved step that was not finite")
    train.add_argument("--steps", type=int, default=0, help="optimiser updates (default: the run's)")
    train.add_argument("--lr", type=float, default=0.0, help="learning rate (default: the run's)")
    train.add_argument("--init", metavar="WHAT", help='weights to start from, "" for none (default: the run\'s)')
    train.set_defaults(verb=_train)


def _add_file_verbs(verbs: Any) -> None:
    prepare = verbs.add_parser("prepare", help="validate, split, pack and link MOTChallenge sequences")
    prepare.add_argument("--src", type=Path, required=True, metavar="DIR", help="folder of the sequences, or of MOT17")
    prepare.add_argument("--dst", type=Path, required=True, metavar="DIR", help="folder for the packed data")
    prepare.add_argument(
        "--stills", type=Path, metavar="DIR", help="folder of imported still images, used in training only"
    )
    prepare.add_argument("--sequences", type=names_of, default=(), metavar="A,B", help="only these sequences")
    prepare.add_argument(
        "--workers", type=_positive, default=1, metavar="N", help="processes that check frames (default 1)"
    )
    prepare.set_defaults(verb=_prepare)
    _add_label_verbs(verbs)

    files = verbs.add_parser("eval-files", help="print metrics of MOTChallenge result files, as JSON")
    files.add_argument("--gt", type=Path, required=True, metavar="DIR", help="folder with SEQ/gt/gt.txt")
    files.add_argument("--pred", type=Path, required=True, metavar="DIR", help="folder with SEQ.txt")
    files.add_argument("--protocol", choices=PROTOCOLS, default=PROTOCOLS[0])
    files.add_argument("--engine", choices=("motrlab", "motmetrics"), default="motrlab",
                       help="motmetrics: CLEAR and identity metrics by the rules of py-motmetrics")  # fmt: skip
    files.set_defaults(verb=_eval_files)

    demo = verbs.add_parser("demo-video", help="write a short street video to try `track` on")
    demo.add_argument("out", nargs="?", type=Path, default="street.mp4", metavar="OUT.mp4", help="default: street.mp4")
    demo.add_argument("--seed", type=int, metavar="N", help="seed of the video; another seed gives another video")
    demo.set_defaults(verb=_demo_video)

    track = verbs.add_parser("track", help="track people in a video, a folder of frames, a camera or a stream")
    track.add_argument("--artifact", type=Path, metavar="PATH", help="folder of an artefact (default: motrlab's own)")
    track.add_argument(
        "--input", required=True, metavar="VIDEO|DIR|CAMERA", help="a path, the number of a camera, or a URL"
    )
    track.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    track.add_argument("--frames", action="store_true", help="also write every frame as a PNG file")
    track.add_argument("--num-frames", type=_positive, metavar="N", help="stop after N frames")
    track.add_argument("--nv12", type=_size, metavar="WxH", help="the input holds raw NV12 frames of this size")
    track.add_argument("--video-range", action="store_true", help="with --nv12: Y is from 16 to 235")
    track.set_defaults(verb=_track)


def _add_label_verbs(verbs: Any) -> None:
    labels = verbs.add_parser("import", help="convert other data sets and labels to MOTChallenge folders")
    labels.add_argument(
        "--format", default="", metavar="NAME", help="format of the labels, if unclear (coco, kitti, …)"
    )
    labels.add_argument(
        "--src", type=Path, required=True, metavar="DIR|FILE", help="a data set's folder, .json, .odgt or .zip"
    )
    labels.add_argument("--images", type=Path, metavar="DIR", help="frames (default: next to the JSON, or in the zip)")
    labels.add_argument("--classes", default="pedestrian", metavar="A,B",
                        help="what is tracked, such as pedestrian,car; the model needs as many outputs")  # fmt: skip
    labels.add_argument("--map", dest="class_map", action="append", default=[], metavar="NAME=CLASS",
                        help="class of a label, such as player=pedestrian; may be repeated")  # fmt: skip
    labels.add_argument("--dst", type=Path, required=True, metavar="DIR", help="folder for the sequences")
    labels.set_defaults(verb=_import)
    export = verbs.add_parser("export", help="write packed frames and gt as MOTChallenge folders")
    export.add_argument(
        "--src", type=Path, required=True, metavar="DIR", help="folder of a run, of `prepare`, or an LMDB"
    )
    export.add_argument("--dst", type=Path, required=True, metavar="DIR", help="folder for the sequences")
    export.set_defaults(verb=_export)


def _add_stage_verbs(verbs: Any) -> None:
    evaluate = verbs.add_parser("evaluate", help="print metrics of a stage of a run, as JSON")
    evaluate.add_argument("--stage", choices=EVALUATED, required=True)
    evaluate.add_argument("--protocol", choices=PROTOCOLS, default=PROTOCOLS[0])
    evaluate.set_defaults(verb=_evaluate)
    add_bench_verbs(verbs)
    calops = verbs.add_parser("calops", help="print parameters and operations of both graphs, as JSON")
    calops.set_defaults(verb=_calops)
    report = verbs.add_parser("report", help="write the pages in reports/NAME/ from the run's records")
    report.add_argument("--numbers-only", action="store_true", help="leave out pictures of frames")
    more = report.add_mutually_exclusive_group()
    more.add_argument("--crate", action="store_true", help="also write reports/NAME/crate/, a Workflow Run RO-Crate")
    more.add_argument(
        "--readme", action="store_true", help="only write the numbers of the sample report into README.md"
    )
    report.set_defaults(verb=_report)
    for verb in (evaluate, calops, report):
        verb.add_argument("--run", default="default", metavar="NAME", help="the run's name (default: default)")


def _run(options: argparse.Namespace) -> None:
    from motrlab.config.fields import variants
    from motrlab.pipeline import run_notebooks, run_variants

    source = {"data_root": options.data_root, "sequences": options.sequences}
    if len(combinations := variants(options.fields)) > 1:
        if options.parameters or options.first:
            raise UserError(
                "run: --set with several values allows no -p and no --from; the first notebook follows from the field"
            )
        names = run_variants(
            options.run, options.preset, fields=options.fields, jobs=options.jobs, last=options.last, **source
        )
        options.runs = names
        _compare(options)
        return
    ends = {"first": options.first, "last": options.last, "parameters": options.parameters}
    report = run_notebooks(options.run, options.preset, fields=combinations[0], **ends, **source)
    if report is not None:
        print(report)


def _train(options: argparse.Namespace) -> None:
    run = None if options.replay else Run.open(options.run, create=False)  # a mistake is told before torch is loaded
    from motrlab.stages.chain import require
    from motrlab.stages.training import replay, train_float
    from motrlab.training.distributed import leave

    try:
        if run is None:
            print(replay(options.replay))
            return
        require(run, "data")
        metrics = train_float(run, steps=options.steps, lr=options.lr, init=options.init).get(
            "metrics", {}
        )  # of the first process
        if metrics:
            print(", ".join(f"{k} {round(v, 4) if isinstance(v, float) else v}" for k, v in metrics.items()))
    finally:
        leave()


def _prepare(options: argparse.Namespace) -> None:
    from motrlab.data.prepare import prepare
    from motrlab.data.summary import LABELS

    summary = prepare(options.src, options.dst, options.sequences, num_workers=options.workers, stills=options.stills)
    print(summary.table(), *map(summary.histogram_table, LABELS), sep="\n\n")


def _import(options: argparse.Namespace) -> None:
    from motrlab.data.datasets import import_labels
    from motrlab.data.importing import parse_class_map, parse_tracked

    found = import_labels(
        options.src,
        options.dst,
        format=options.format,
        images=options.images,
        class_map=parse_class_map(options.class_map),
        tracked=parse_tracked(options.classes),
    )
    for info, said in found:
        what = "stills of at most" if info.stills else "frames of"
        print(f"{options.dst / info.name}: {info.num_frames} {what} {info.width}×{info.height}, from {said}")


def _export(options: argparse.Namespace) -> None:
    from motrlab.data.exporting import export_sequences

    for info in export_sequences(options.src, options.dst):
        print(f"{options.dst / info.name}: {info.num_frames} frames of {info.width}×{info.height}")


def _eval_files(options: argparse.Namespace) -> None:
    from motrlab.evaluation.metrics import as_json, evaluate_folders

    print_json(as_json(evaluate_folders(options.gt, options.pred, options.protocol, options.engine)))


def _demo_video(options: argparse.Namespace) -> None:
    from motrlab.demo import SEED, write_demo_video

    video = write_demo_video(options.out, seed=SEED if options.seed is None else options.seed)
    print(f"{options.out}: {video.num_frames} frames of {video.width}×{video.height}, {video.frame_rate} a second")
    print(f"now: python -m motrlab track --input {shlex.quote(str(options.out))} --out tracked")


def _track(options: argparse.Namespace) -> None:
    from motrlab.track import track

    counts = track(
        options.artifact,
        options.input,
        options.out,
        write_frames=options.frames,
        num_frames=options.num_frames,
        nv12=options.nv12,
        video_range=options.video_range,
    )
    print(", ".join(f"{count} {name}" for name, count in counts.items()), "→", options.out)


def _evaluate(options: argparse.Namespace) -> None:
    from motrlab.evaluation.metrics import as_json
    from motrlab.stages.accuracy import evaluate_stage
    from motrlab.stages.chain import require

    run = Run.open(options.run, create=False)
    require(run, options.stage)
    print_json(as_json(evaluate_stage(run, options.stage, options.protocol)))


def _calops(options: argparse.Namespace) -> None:
    from motrlab.deploy.calops import totals
    from motrlab.stages.training import calops

    print_json(totals(calops(Run.open(options.run, create=False))))


def _report(options: argparse.Namespace) -> None:
    from motrlab.report.crate import new_crate, write_crate
    from motrlab.report.html import render_report
    from motrlab.report.numbers import write_readme

    if options.readme:
        print(write_readme(project_root()))
        return
    run = Run.open(options.run, create=False)
    if options.crate:
        new_crate()  # before minutes of work: is the package there?
    print(render_report(run, numbers_only=options.numbers_only))
    if options.crate:
        from motrlab.pipeline import notebooks_folder

        print(write_crate(run, notebooks_folder()))


def _compare(options: argparse.Namespace) -> None:
    from motrlab.report.compare import compare

    print(*compare(options.runs), sep="\n\n")


def _ship(options: argparse.Namespace) -> None:
    from motrlab.stages.shipping import ship

    print(ship(Run.open(options.run, create=False)))


def _doctor(options: argparse.Namespace) -> None:
    from motrlab.doctor import examine

    for name, value in examine().items():
        print(f"{name:<22} {value}")


if __name__ == "__main__":
    sys.exit(main())
