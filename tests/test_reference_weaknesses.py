"""Where the reference system is weak, and we must not be. A test for each point fails if it is done the reference's way.

| what the reference does | what makes us right | tests, here or in the file named |
|---|---|---|
| 1 post-processing loops over slots | `tracking/tracker.py`, `step.py` | `test_post_processing_does_not_loop_over_slots` |
| 2 MOTA alone, no sequences, no seed | `evaluation/`, `report/` | `test_the_report_has_every_metric_sequence_and_the_seed` |
| 3 calibration in open loop on 20 frames... | `quantization/calibration.py` | `test_calibration_runs_the_closed_loop` |
| ...and QAT throws its result away | `stages/quantization.py`, `qat.py` | `test_qat_starts_from_the_calibrated_ranges` |
| 4 fixed point loses against QAT | `quantization/functions.py`, `deploy/kernel_graph.py` | `quantization/test_qat.py::test_training_puts_every_tensor_on_its_grid`, `deploy/test_kernel_graph.py::test_onnxruntime_equals_torch_at_every_level`, `deploy/test_kernel_graph.py::test_openvino_equals_torch`, `deploy/test_runtime.py::test_gives_the_tracks_of_the_network_it_was_made_from`, `notebooks/test_chain.py::test_all_forms_give_the_same_track_files` |
| 5 clips cross the border of two videos | `data/clips.py` | `test_a_clip_is_of_one_video` |
| hidden people are targets | `config.py`, `training/assignment.py` | `training/test_assignment.py::test_nobody_fully_hidden_is_a_detection_target` |
| padding slots are trained as negatives | `training/criterion.py` | `training/test_clip_loop.py::test_padding_slots_carry_no_loss_in_any_layer` |
| ids leak into the next sequence | `tracking/sequence.py` | `test_nothing_of_a_sequence_reaches_the_next`, `training/test_clip_loop.py::test_clips_start_without_tracks` |
| 6 one detector's copies only | `data/motchallenge.py` | `test_any_detector_copy_will_do` |
| a second run appends | `data/prepare.py` | `test_a_second_preparation_appends_nothing` |
| seqinfo.ini by position | `data/motchallenge.py` | `test_seqinfo_keys_may_come_in_any_order` |
| a frame without people crashes | `training/` | `test_a_video_without_people_is_trained_on` |
| 7 graphs overwrite each other, runtime needs the checkpoint | `deploy/` | `deploy/test_artifact.py::test_holds_what_the_design_lists`, `stages/test_accuracy.py::test_the_artefact_is_evaluated_without_torch` |
| 8 a sequence without output is skipped | `evaluation/metrics.py` | `test_a_sequence_without_output_is_all_missed` |
| 9 unbounded number of tracks | `tracking/tracker.py` | `test_a_crowd_fills_the_slots_and_no_more`, `training/test_assignment.py::test_capacity_is_never_exceeded` |
| decoder layer count hard-wired | `model/`, `training/` | `test_any_number_of_decoder_layers_trains` |
| a CUDA operator to compile | `model/attention.py` | `test_the_graphs_are_plain_operators` |
| a non-finite loss ends without a trace | `training/trainer.py` | `training/test_replay.py::test_a_network_that_blows_up_is_reported` |
"""  # noqa: E501

from __future__ import annotations

import ast
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from motrlab.config import Config, TrackerConfig, mot17, street
from motrlab.data.clips import ClipDataset, collate
from motrlab.data.motchallenge import SequenceInfo, find_sequences, format_sequence_info, read_sequence_info
from motrlab.data.prepare import prepare
from motrlab.data.store import FrameStore
from motrlab.evaluation.metrics import evaluate_folders
from motrlab.model.motr import MotrGraphs, build_motr, folded_copy
from motrlab.quantization import calibration
from motrlab.quantization.calibration import closed_loop
from motrlab.quantization.declare import example_inputs
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.report.html import PAGES, report_html
from motrlab.report.values import percent
from motrlab.run import Run
from motrlab.stages.accuracy import evaluate_stage
from motrlab.stages.data import prepare_data
from motrlab.stages.models import load_quantized
from motrlab.stages.quantization import calibrate, train_qat
from motrlab.stages.training import train_float
from motrlab.tracking.sequence import track_frames
from motrlab.tracking.step import FrameOutput, FrameStep, TrackState, empty_state, frame_step
from motrlab.tracking.tracker import EMPTY, Decision, Tracker
from motrlab.training import trainer
from motrlab.training.trainee import ClipModel
from tests.tiny import tiny

PRESET = """
from dataclasses import replace
from motrlab.config import StreetConfig, TrackerConfig
from tests.tiny import tiny as base_config

def tiny():
    base = base_config()
    street = StreetConfig(num_videos=2, num_unseen=0, num_frames=16, width=160, height=90)
    model = replace(base.model, height=48, width=80, d_model=16, ffn_channels=24, decoder_layers=1)
    # Scores of a model that has learnt nothing lie near its prior: with these thresholds it still tracks something.
    eager = TrackerConfig(birth_score=0.0, miss_score=0.0, reset_score=0.0, output_score=0.0, min_area_px=0.0)
    return replace(base, seed=7, street=street, model=model, tracker=eager,
                   train=replace(base.train, steps=2, frames_per_step=4, bf16=False),
                   calibration=replace(base.calibration, num_frames=6),
                   qat=replace(base.qat, steps=1, freeze_observers=0.0))
"""


Loop = list[tuple[float, TrackState, TrackState]]


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Loop]:
    """A run of a tiny street up to calibration, for tests to copy. And what calibration did in each frame: frames that
    its observers had seen, states before and after.
    """
    home, loop = tmp_path_factory.mktemp("home"), []

    def watched(graphs: Any, images: Any, config: Config, **settings: Any) -> Iterator[FrameStep]:
        for step in closed_loop(graphs, images, config, **settings):
            yield step  # back here, calibration has taken this frame into its ranges
            loop.append((float(graphs._net.ranges.seen.max()), step.before, step.state))

    (home / "mine.py").write_text(PRESET)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOTRLAB_HOME", str(home))
        patch.setattr(calibration, "closed_loop", watched)
        run = Run.open("tiny", f"{home / 'mine.py'}:tiny")
        prepare_data(run, num_workers=1)
        train_float(run)
        calibrate(run)
    return run, loop


@pytest.fixture
def run(line: tuple[Run, Loop], home: Path) -> Run:
    shutil.copytree(line[0].path, home / "runs" / line[0].name)
    return Run.open(line[0].name, create=False)


def write_video(folder: Path, num_frames: int, people: dict[int, list[int]], detector: str = "") -> Path:
    """A sequence of noise; `people`: id → frames in which it is there."""
    info = SequenceInfo(name=folder.name, num_frames=num_frames, width=96, height=64, frame_rate=10.0)
    rng = np.random.default_rng(num_frames)
    (folder / "img1").mkdir(parents=True)
    (folder / "gt").mkdir()
    for frame in range(1, num_frames + 1):
        cv2.imwrite(str(info.frame_path(folder, frame)), rng.integers(0, 256, (64, 96, 3), np.uint8))
    rows = [f"{frame},{who},20,8,24,40,1,1,1\n" for who, frames in people.items() for frame in frames]
    (folder / "gt" / "gt.txt").write_text("".join(rows))
    (folder / "seqinfo.ini").write_text(format_sequence_info(info))
    return folder


def small(config: Config) -> Config:
    """`config` with a network of 16 channels on 48×80 pixels, and float32."""
    model = replace(config.model, height=48, width=80, d_model=16, ffn_channels=24)
    train = replace(config.train, steps=3, frames_per_step=4, bf16=False, checkpoint_every=3)
    return replace(config, model=model, train=train, num_workers=0)


def files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


# 1


class NumpyGraphs:
    """Random outputs of the right shapes."""

    def __init__(self, num_detect: int, num_track: int) -> None:
        self.rng, self.rows = np.random.default_rng(0), (num_detect + num_track) // 8
        self.detect_query = np.zeros((1, 4, num_detect // 8, 8), np.float32)

    def base(self, frame: Any, query: Any, mask: Any, reference: Any) -> Any:
        values = self.rng.uniform(0.1, 0.4, (1, 9, self.rows, 8)).astype(np.float32)
        return (values[:, :1] * 20 - 5,), (values[:, 1:5],), values[:, 5:]

    def qim(self, embedding: Any, query: Any, mask: Any) -> Any:
        return embedding

    def decode(self, boxes: Any) -> Any:
        return boxes


def count_instructions(call: Callable[[], object]) -> int:
    """Python instructions that `call` executes, those of every function it calls included."""
    number = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal number
        frame.f_trace_opcodes = True
        number += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return number


@pytest.mark.parametrize("rules", [mot17().tracker, street().tracker], ids=["mot17", "street"])
def test_post_processing_does_not_loop_over_slots(rules: TrackerConfig) -> None:
    def instructions(slots: int) -> tuple[int, int]:
        """Of one frame step with half as many tracks as detect slots live before it; and how many boxes it wrote."""
        graphs, tracker = NumpyGraphs(slots, slots), Tracker(rules, slots, slots)
        written: list[int] = []

        def decide(output: FrameOutput) -> Decision:
            scores, boxes = output.scores_and_boxes()
            decision = tracker.update(scores, boxes)
            written.append(len(tracker.live(decision, scores, boxes)[0].written(rules, 1e6).track_id))
            return decision

        state = frame_step(graphs, None, empty_state(1, 4, slots, 8), decide).state
        number = count_instructions(lambda: frame_step(graphs, None, state, decide))
        return number, written[-1]

    (few, few_boxes), (many, many_boxes) = instructions(8), instructions(256)
    assert many_boxes > 4 * few_boxes
    assert many == few


# 2


def test_the_report_has_every_metric_sequence_and_the_seed(run: Run) -> None:
    results = evaluate_stage(run, "float")
    pages = "".join(report_html(run, page=page) for page in PAGES)
    page = re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", pages))
    assert all(heading in page for heading in ("MOTA", "IDF1", "HOTA", "AssA", "IDSW"))
    assert set(results) == {"STREET-01", "STREET-02", "OVERALL"}
    for name, metrics in results.items():
        row = [
            "Float" if name == "OVERALL" else f"{name} Float",
            *(percent(metrics[m], 2) for m in ("mota", "idf1", "hota")),
        ]
        assert metrics["hota"] > 0
        assert " ".join(row) in page
    assert " Seed 7 " in page
    record = run.last_record("float", "accuracy")
    assert record is not None
    assert record["seed"] == 7


# 3


def test_calibration_runs_the_closed_loop(line: tuple[Run, Loop]) -> None:
    _, loop = line
    assert [seen for seen, _, _ in loop] == [1, 2, 3, 4, 5, 6]  # every frame was observed
    firsts = [i for i, (_, before, _) in enumerate(loop) if not before.mask.any()]
    assert firsts == [0, 3]  # two videos, three frames each
    for i, (_, before, _) in enumerate(loop):
        if i not in firsts:
            assert before is loop[i - 1][2]  # the QIM's own queries, of live tracks
            assert before.query.any()
    assert min(config.calibration.num_frames for config in (street(), mot17())) > 20


def test_qat_starts_from_the_calibrated_ranges(run: Run) -> None:
    """Ranges that no observer would choose come out of a QAT that freezes them; its weights have moved."""
    calibrated = load_quantized(run, "calibration")
    observed = calibrated.ranges.scale.clone()
    calibrated.ranges.largest *= 1.75
    calibrated.ranges.follow()
    assert (calibrated.ranges.scale > 1.5 * observed).sum() > 20
    calibrated.save(run.model_file("calibration"), run.config)
    train_qat(run)
    trained = load_quantized(run, "qat")
    assert torch.equal(trained.ranges.scale, calibrated.ranges.scale)
    assert not torch.equal(trained.model.base.detect.query, calibrated.model.base.detect.query)


# 5


def test_a_clip_is_of_one_video(tmp_path: Path) -> None:
    """Three videos with one person each, packed one after the other: a clip sees one person, or is of none."""
    everywhere = list(range(1, 13))
    for who, name in enumerate("ABC", 1):
        write_video(tmp_path / "source" / name, 12, {who: everywhere})
    prepare(tmp_path / "source", tmp_path / "data", num_workers=1)
    config = small(tiny())
    train = replace(config.train, stride_max=10)
    data = ClipDataset(FrameStore(tmp_path / "data" / "train_lmdb"), train, config.model, seed=0)
    seen = []
    for index in range(60):
        clip = data[0, index, 3]
        (who,) = {i for people in clip.objects for i in people.ids.tolist()} or {0}
        seen.append(who)
    assert set(seen) >= {1, 2, 3}


def test_nothing_of_a_sequence_reaches_the_next() -> None:
    """A video comes out the same before and after another one on the same graphs."""
    rules = TrackerConfig(birth_score=0.0, miss_score=0.0, reset_score=0.0, output_score=0.0, min_area_px=0.0)
    model = build_motr(small(tiny()).model, seed=1).eval()
    graphs, rng = MotrGraphs(model), np.random.default_rng(0)
    shape = (5, 1, 3, model.config.height, model.config.width)
    first, second = (list(torch.from_numpy(rng.uniform(-1, 1, shape).astype(np.float32))) for _ in range(2))

    def track(video: list[torch.Tensor]) -> list[tuple[list[int], np.ndarray]]:
        images = [np.full((48, 80, 3), i, np.uint8) for i in range(len(video))]
        with torch.no_grad():
            found = track_frames(graphs, images, lambda image: video[image[0, 0, 0]], model.config, rules)
            return [(f.track_id.tolist(), f.ltwh) for f in found]

    alone, _, after = track(second), track(first), track(second)
    assert after[0][0][0] == 1  # ids count from 1 again
    for (ids, boxes), (expected_ids, expected_boxes) in zip(after, alone, strict=True):
        assert ids == expected_ids
        np.testing.assert_array_equal(boxes, expected_boxes)


# 6


@pytest.mark.parametrize(
    ("copies", "taken"),
    [(("DPM",), "DPM"), (("SDP",), "SDP"), (("DPM", "FRCNN", "SDP"), "FRCNN"), (("DPM", "SDP"), "SDP")],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else value,
)
def test_any_detector_copy_will_do(copies: tuple[str, ...], taken: str, tmp_path: Path) -> None:
    for detector in copies:
        write_video(tmp_path / f"MOT17-02-{detector}", 4, {1: [1, 2, 3, 4]})
    assert [folder.name for folder in find_sequences(tmp_path)] == [f"MOT17-02-{taken}"]
    prepare(tmp_path, tmp_path / "data", num_workers=1)
    assert [s.num_frames for s in FrameStore(tmp_path / "data" / "train_lmdb").sequences] == [2]  # not once a copy


def test_a_second_preparation_appends_nothing(tmp_path: Path) -> None:
    write_video(tmp_path / "source" / "A", 6, {1: [1, 2, 4, 6]})
    prepare(tmp_path / "source", tmp_path / "data", num_workers=1)
    before = files(tmp_path / "data")
    assert before["test_gt/A/gt/gt.txt"].decode().splitlines() == ["1,1,20,8,24,40,1,1,1", "3,1,20,8,24,40,1,1,1"]
    prepare(tmp_path / "source", tmp_path / "data", num_workers=1)
    assert files(tmp_path / "data") == before
    (tmp_path / "source" / "A" / "gt" / "gt.txt").write_text("4,1,20,8,24,40,1,1,1\n")
    prepare(tmp_path / "source", tmp_path / "data", num_workers=1)  # nor when the source has changed
    assert files(tmp_path / "data")["test_gt/A/gt/gt.txt"].decode() == "1,1,20,8,24,40,1,1,1\n"


def test_seqinfo_keys_may_come_in_any_order(tmp_path: Path) -> None:
    lines = ["imExt=.png", "imHeight=64", "seqLength=6", "note=first", "imWidth=96", "frameRate=25", "imDir=pictures"]
    for order in (lines, lines[::-1]):
        (tmp_path / "seqinfo.ini").write_text("\n".join(["[Sequence]", *order]))
        info = read_sequence_info(tmp_path)
        assert (info.num_frames, info.width, info.height, info.frame_rate) == (6, 96, 64, 25)
        assert (info.image_dir, info.image_ext) == ("pictures", ".png")


@pytest.mark.parametrize(
    "people", [{1: [7]}, {1: [2]}], ids=["nobody in the half that trains", "somebody in one frame"]
)
@pytest.mark.parametrize("augmentation", ["street", "reference"])
def test_a_video_without_people_is_trained_on(people: dict[int, list[int]], augmentation: str, tmp_path: Path) -> None:
    write_video(tmp_path / "source" / "A", 8, people)
    prepare(tmp_path / "source", tmp_path / "data", num_workers=1)
    config = small(tiny())
    config = replace(config, train=replace(config.train, augmentation=augmentation, stride_max=1))
    store = FrameStore(tmp_path / "data" / "train_lmdb")
    model, result = trainer.train_float(store, config, tmp_path / "checkpoints")
    assert result.steps == 3
    assert 0 < result.final["class"] < np.inf
    assert all(p.isfinite().all() for p in model.parameters())
    start = build_motr(config.model, config.seed).state_dict()
    assert not torch.equal(model.state_dict()["base.class_heads.0.bias"], start["base.class_heads.0.bias"])  # no decay


# 8


@pytest.mark.parametrize("protocol", ["motchallenge", "hat"])
@pytest.mark.parametrize("empty_file", [True, False], ids=["empty file", "no file"])
def test_a_sequence_without_output_is_all_missed(protocol: str, empty_file: bool, tmp_path: Path) -> None:
    for name, frames in (("A", 6), ("B", 10)):
        write_video(tmp_path / "gt" / name, frames, {1: list(range(1, frames + 1))})
    (tmp_path / "pred").mkdir()
    rows = "".join(f"{frame},1,20,8,24,40,1,-1,-1,-1\n" for frame in range(1, 7))
    (tmp_path / "pred" / "A.txt").write_text(rows)
    if empty_file:
        (tmp_path / "pred" / "B.txt").write_text("")
    results = evaluate_folders(tmp_path / "gt", tmp_path / "pred", protocol)
    assert results["A"]["mota"] == 1
    missed = results["B"]
    assert (missed["fn"], missed["num_gt"], missed["ml"]) == (10, 10, 1)
    assert missed["mota"] == missed["idf1"] == missed["hota"] == 0
    assert results["OVERALL"]["num_gt"] == 16
    assert results["OVERALL"]["mota"] == pytest.approx(6 / 16)


# 9


@pytest.mark.parametrize("rules", [mot17().tracker, street().tracker], ids=["mot17", "street"])
def test_a_crowd_fills_the_slots_and_no_more(rules: TrackerConfig) -> None:
    """Every detect slot sees somebody new in every frame, and nobody ever leaves."""
    tracker = Tracker(rules, 32, 6)
    rng = np.random.default_rng(0)
    sizes = []
    for _ in range(30):
        boxes = np.concatenate((rng.uniform(0, 1, (1, 38, 2)), np.full((1, 38, 2), 0.01)), 2).astype(np.float32)
        decision = tracker.update(np.full((1, 38), 0.99, np.float32), boxes)
        live = tracker.track_id[tracker.track_id != EMPTY]
        assert decision.source.shape == (1, 6)
        assert len(set(live.tolist())) == len(live) == (decision.source != EMPTY).sum()
        sizes.append(sum(v.size for v in vars(tracker).values() if isinstance(v, np.ndarray)))
    assert len(live) == 6
    assert len(set(sizes)) == 1  # nothing grows


@pytest.mark.parametrize("layers", [1, 2, 5])
def test_any_number_of_decoder_layers_trains(layers: int, tmp_path: Path) -> None:
    """Each of them is supervised: its class head and its box head get a gradient."""
    write_video(tmp_path / "source" / "A", 8, {1: list(range(1, 9)), 2: [1, 3]})
    prepare(tmp_path / "source", tmp_path / "data", num_workers=1)
    config = small(tiny())
    config = replace(config, model=replace(config.model, decoder_layers=layers))
    data = ClipDataset(FrameStore(tmp_path / "data" / "train_lmdb"), config.train, config.model, seed=0)
    model = build_motr(config.model)
    batch = collate([data[0, i, 2] for i in range(2)]).to("cpu")
    loss = ClipModel(model, config.train)(batch, [np.random.default_rng(i) for i in range(2)])
    loss.total.backward()
    assert loss.num_objects > 0
    assert {name.split(".")[1] for name in loss.named()} == {f"layer_{i}" for i in range(layers)}
    assert len(model.base.class_heads) == len(model.base.box_heads) == layers
    for head in (*model.base.class_heads, *model.base.box_heads):
        assert any(p.grad is not None and bool(p.grad.any()) for p in head.parameters())


class CalledOperators(TorchDispatchMode):
    """Every operator that torch is asked for while this is on."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found.append(func)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("fixed_point", [False, True], ids=["float", "fixed point"])
def test_the_graphs_are_plain_operators(fixed_point: bool) -> None:
    """Nothing to compile: torch's own operators, on any device, and no sources of a language but Python."""
    quantised = QuantizedMotr(folded_copy(build_motr(small(tiny()).model)))
    bits = torch.Generator().manual_seed(0)
    shapes = {name: [x.shape for x in tensors] for name, tensors in example_inputs(quantised.config).items()}
    inputs = {name: [torch.rand(shape, generator=bits).round() for shape in each] for name, each in shapes.items()}
    for mode in ("calibrate", "evaluate" if fixed_point else "float"):
        quantised.mode(mode)
        for name in ("base", "qim"):
            with CalledOperators() as called, torch.no_grad():
                getattr(quantised.graphs, name)(*inputs[name])
            assert len(called.found) > 10
            assert {operator.namespace for operator in called.found} == {"aten"}
        quantised.ranges.finish()
    package = Path(__file__).parent.parent / "motrlab"
    assert not [f for f in package.rglob("*") if f.suffix in (".cu", ".cpp", ".c", ".so", ".pyx")]
    assert not [f for f in package.rglob("*.py") if "cpp_extension" in f.read_text(encoding="utf-8")]


# The table


def test_the_table_names_tests_that_exist() -> None:
    folder = Path(__file__).parent
    named = re.findall(r"`(?:([\w/]+\.py)::)?(test_\w+)`", __doc__ or "")
    assert len(named) >= 20
    rows = [line for line in (__doc__ or "").splitlines() if line.startswith("| ")][1:]
    assert [row for row in rows if "test_" not in row.rsplit("|", 2)[1]] == []
    for file, test in named:
        tree = ast.parse((folder / file if file else Path(__file__)).read_text(encoding="utf-8"))
        assert test in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}, (file, test)
    own = {name for name in globals() if name.startswith("test_")} - {"test_the_table_names_tests_that_exist"}
    assert own == {test for file, test in named if not file}
