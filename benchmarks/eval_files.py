"""`eval-files`, start-up included, beside TrackEval without its start-up, on files of MOT17's size.

    OMP_NUM_THREADS=1 python benchmarks/eval_files.py [--rounds 5]

Seven sequences as long, as crowded and with as many people as the training videos of MOT17: 5,316 frames, 112,297 boxes
of 546 people and distractors, 75,000 results of a tracker that misses, drifts, swaps and invents. In each round
`python -m motrlab eval-files` runs as a process of its own, one thread, from start to exit; then TrackEval, imported
before, reads the same files and computes CLEAR, Identity and HOTA. Prints wall and CPU seconds of each, the ratio of
the medians, and the largest difference of any metric.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

with contextlib.redirect_stdout(io.StringIO()):
    import trackeval

SEQUENCES = {  # MOT17's training videos: frames, boxes, people
    "02": (600, 18581, 62), "04": (1050, 47557, 83), "05": (837, 6917, 133), "09": (525, 5325, 26),
    "10": (654, 12839, 57), "11": (900, 9436, 75), "13": (750, 11642, 110),
}  # fmt: skip
NUM_RESULTS = 75_000
DISTRACTOR_SHARE = 0.06
NAMES = {
    "MOTA": "mota", "MOTP": "motp", "IDF1": "idf1", "IDP": "idp", "IDR": "idr", "HOTA": "hota", "DetA": "deta",
    "AssA": "assa", "CLR_FP": "fp", "CLR_FN": "fn", "IDSW": "idsw", "Frag": "frag", "MT": "mt", "PT": "pt", "ML": "ml",
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="eval-files beside TrackEval")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_files(root)
        timings: dict[str, list[tuple[float, float]]] = {"eval-files": [], "TrackEval": []}
        for _ in range(options.rounds):
            ours = timed(lambda: run_eval_files(root), timings["eval-files"])
            theirs = timed(lambda: run_trackeval(root), timings["TrackEval"])
        print_timings(timings)
        difference = max(abs(ours[s][k] - theirs[s][k]) for s in theirs for k in theirs[s])
        print(f"largest difference of {sum(map(len, theirs.values()))} metrics: {difference:.1e}")


def write_files(root: Path) -> None:
    """`gt/SEQ/gt/gt.txt`, `gt/SEQ/seqinfo.ini` and `pred/ours/data/SEQ.txt`."""
    rng = np.random.default_rng(0)
    kept = NUM_RESULTS / sum(boxes for _, boxes, _ in SEQUENCES.values())
    (root / "pred" / "ours" / "data").mkdir(parents=True)
    for name, (frames, boxes, people) in SEQUENCES.items():
        folder = root / "gt" / f"MOT17-{name}"
        (folder / "gt").mkdir(parents=True)
        (folder / "seqinfo.ini").write_text(f"[Sequence]\nseqLength={frames}\nimWidth=1920\nimHeight=1080\n")
        gt = walks(rng, frames, boxes, people)
        distractor = np.isin(gt[:, 1], rng.choice(people, round(DISTRACTOR_SHARE * people), replace=False) + 1)
        tail = np.column_stack([~distractor, np.where(distractor, 8, 1), rng.random(len(gt)).round(5)])
        np.savetxt(folder / "gt" / "gt.txt", np.column_stack([gt, tail]), "%d,%d,%d,%d,%d,%d,%d,%d,%.5g")
        found = results(rng, gt, round(kept * boxes))
        tail = np.column_stack([rng.random(len(found)), np.full((len(found), 3), -1)])
        rows = np.column_stack([found, tail])
        np.savetxt(root / "pred/ours/data" / f"MOT17-{name}.txt", rows, "%d,%d,%.3f,%.3f,%.3f,%.3f,%.5f,%d,%d,%d")


def walks(rng: np.random.Generator, frames: int, boxes: int, people: int) -> np.ndarray:
    """Rows of frame, id, box, sorted by id: people who come, walk and go, `boxes` rows in all."""
    share = rng.uniform(0.3, 1.7, people)
    length = np.clip(np.round(share / share.sum() * boxes), 1, frames).astype(int)
    for i in rng.permutation(np.arange(boxes) % people)[: abs(boxes - length.sum())]:
        length[i] = np.clip(length[i] + np.sign(boxes - length.sum()), 1, frames)
    rows = []
    for i, n in enumerate(length):
        start = rng.integers(1, frames - n + 2)
        width = rng.uniform(40, 120)
        place = rng.uniform([0, 300], [1800, 700]) + np.cumsum(rng.normal(rng.normal(0, 1.5, 2), 0.5, (n, 2)), 0)
        size = np.full((n, 2), [width, 2.6 * width])
        rows.append(np.column_stack([np.arange(start, start + n), np.full(n, i + 1), np.round(place), np.round(size)]))
    return np.concatenate(rows)


def results(rng: np.random.Generator, gt: np.ndarray, count: int) -> np.ndarray:
    """A tracker's rows, sorted by frame: boxes that tremble, one in twelve somewhere else, a new id now and then."""
    found = gt[np.sort(rng.choice(len(gt), count, replace=False))].copy()
    found[:, 2:] += rng.normal(0, 0.06, (count, 4)) * found[:, [4, 5, 4, 5]]
    wrong = rng.random(count) < 1 / 12
    found[wrong, 2:4] += rng.uniform(-400, 400, (wrong.sum(), 2))
    found[:, 1] += 1000 * np.cumsum(rng.random(count) < 0.01)  # sorted by id so far: a switch lasts to the next
    return found[np.lexsort((found[:, 1], found[:, 0]))]


def timed(work: Any, seconds: list[tuple[float, float]]) -> Any:
    wall, cpu = time.perf_counter(), sum(os.times()[:4])
    found = work()
    seconds.append((time.perf_counter() - wall, sum(os.times()[:4]) - cpu))
    return found


def run_eval_files(root: Path) -> dict[str, dict[str, float]]:
    folders = ["--gt", str(root / "gt"), "--pred", str(root / "pred" / "ours")]
    command = [sys.executable, "-m", "motrlab", "eval-files", *folders]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, check=True)
    return json.loads(done.stdout)


def run_trackeval(root: Path) -> dict[str, dict[str, float]]:
    """What TrackEval's evaluator does for one tracker, without its printing and its files."""
    quiet = {"PRINT_CONFIG": False}
    with contextlib.redirect_stdout(io.StringIO()):
        dataset = trackeval.datasets.MotChallenge2DBox({
            "GT_FOLDER": str(root / "gt"), "TRACKERS_FOLDER": str(root / "pred"), "TRACKERS_TO_EVAL": ["ours"],
            "SEQ_INFO": {f"MOT17-{name}": frames for name, (frames, _, _) in SEQUENCES.items()},
            "SKIP_SPLIT_FOL": True, **quiet,
        })  # fmt: skip
        metrics = (trackeval.metrics.CLEAR(quiet), trackeval.metrics.Identity(quiet), trackeval.metrics.HOTA())
        found: list[dict[str, Any]] = [{} for _ in metrics]
        for name in dataset.seq_list:
            data = dataset.get_preprocessed_seq_data(dataset.get_raw_seq_data("ours", name), "pedestrian")
            for by_name, metric in zip(found, metrics, strict=True):
                by_name[name] = metric.eval_sequence(data)
        for by_name, metric in zip(found, metrics, strict=True):
            by_name["OVERALL"] = metric.combine_sequences(dict(by_name))
    merged = {name: {k: v for by_name in found for k, v in by_name[name].items()} for name in found[0]}
    return {s: {ours: float(np.mean(values[k])) for k, ours in NAMES.items()} for s, values in merged.items()}


def print_timings(timings: dict[str, list[tuple[float, float]]]) -> None:
    medians = {}
    for name, seconds in timings.items():
        medians[name] = [statistics.median(column) for column in zip(*seconds, strict=True)]
        spread = " ".join(f"{wall:.2f}" for wall, _ in seconds)
        print(f"{name:<11} wall {medians[name][0]:.2f} s, CPU {medians[name][1]:.2f} s  (wall: {spread})")
    wall, cpu = (t / o for o, t in zip(medians["eval-files"], medians["TrackEval"], strict=True))
    print(f"eval-files is {wall:.2f} times as fast by wall, {cpu:.2f} times by CPU time")


if __name__ == "__main__":
    main()
