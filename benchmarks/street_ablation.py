"""What each training flag does on `street`: the same short training with and without it, over several seeds.

    python benchmarks/street_ablation.py --seeds 0 1 2 --steps 500 --flags none denoising coopetition

One training is about three minutes of one core. Results go to `runs/ablation/ablation.jsonl` one by one; what is there
already is not done again, so the command may be stopped and given again. Accuracy is that of the float model on the
test halves and on the videos never trained on, protocol `motchallenge`, with the tracker's rules of the preset.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from motrlab.config import Config, street
from motrlab.model.motr import MotrGraphs
from motrlab.run import Run
from motrlab.stages.accuracy import torch_engine, track_part
from motrlab.stages.data import open_store, prepare_data, read_ground_truth, score_tracks
from motrlab.training.trainer import train_float

FLAGS: dict[str, dict[str, dict[str, Any]]] = {  # name → part of the config → fields; all start from `none`
    "none": {},
    "muon": {"train": {"optimizer": "muon"}},
    "denoising": {"train": {"denoising_groups": 2}},
    "denoising_wide": {"train": {"denoising_groups": 2, "denoising_noise": 0.8}},
    "coopetition": {"train": {"coopetition": True}},
    "memory": {"model": {"query_memory": 0.5}},
    "long_clips": {"train": {"clip_frames": (2, 3, 4, 6), "clip_milestones": (0.4, 0.65, 0.85)}},
    "average": {"train": {"ema_decay": 0.998}},
    "no_suppression": {"tracker": {"suppress_iou": None}},
    "denoising_coopetition": {"train": {"denoising_groups": 2, "coopetition": True}},
}
SCORES = ("mota", "idf1", "hota")


def main() -> None:
    parser = argparse.ArgumentParser(description="what each training flag does on street")
    parser.add_argument("--flags", nargs="+", choices=FLAGS, default=list(FLAGS), metavar="FLAG")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    run = Run.open("ablation", "street")
    if not run.has("data"):
        prepare_data(run)
    for seed in options.seeds:
        for flag in options.flags:
            if find(results(run), flag, seed, options.steps) is None:
                row = {"flag": flag, "seed": seed, "steps": options.steps, **measure(run, flag, seed, options.steps)}
                with (run.path / "ablation.jsonl").open("a", encoding="utf-8") as stream:
                    stream.write(json.dumps(row) + "\n")
    print(table([r for r in results(run) if r["steps"] == options.steps and r["flag"] in options.flags]))


def configure(flag: str, seed: int, steps: int) -> Config:
    """`street` without any flag and with AdamW, then with `flag`."""
    base = street()
    train = replace(base.train, steps=steps, denoising_groups=0, optimizer="adamw")
    base = replace(base, seed=seed, num_workers=0, train=train)
    return replace(base, **{part: replace(getattr(base, part), **fields) for part, fields in FLAGS[flag].items()})


def measure(run: Run, flag: str, seed: int, steps: int) -> dict[str, Any]:
    """Train and score; goes on with a training that was stopped."""
    config = configure(flag, seed, steps)
    folder = run.checkpoints("ablation") / f"{flag}-{seed}-{steps}"
    model, result = train_float(open_store(run, "train"), config, folder)
    scored: dict[str, Any] = {"seconds": round(result.seconds, 1)}
    configured = Run(run.path, config)
    for part in ("test", "unseen"):
        tracks = track_part(configured, torch_engine(MotrGraphs(model), config.model), part)
        overall = score_tracks(read_ground_truth(run, part), tracks)["motchallenge"]["OVERALL"]
        scored[part] = {name: round(float(overall[name]), 4) for name in (*SCORES, "idsw", "fp", "fn")}
    return scored


def results(run: Run) -> list[dict[str, Any]]:
    file: Path = run.path / "ablation.jsonl"
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def find(rows: Sequence[Mapping[str, Any]], flag: str, seed: int, steps: int) -> Mapping[str, Any] | None:
    return next((r for r in rows if (r["flag"], r["seed"], r["steps"]) == (flag, seed, steps)), None)


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Per flag the mean over its seeds, lowest and highest behind it."""
    lines = [f"{'flag':<24}{'seeds':>5}" + "".join(f"{f'{part} {name}':>24}" for part, name in columns())]
    for flag in dict.fromkeys(r["flag"] for r in rows):
        own = [r for r in rows if r["flag"] == flag]
        cells = []
        for part, name in columns():
            values = np.array([r[part][name] for r in own])
            cells.append(f"{values.mean():.3f} ({values.min():.3f} to {values.max():.3f})")
        lines.append(f"{flag:<24}{len(own):>5}" + "".join(f"{cell:>24}" for cell in cells))
    return "\n".join(lines)


def columns() -> list[tuple[str, str]]:
    return [(part, name) for part in ("test", "unseen") for name in SCORES]


if __name__ == "__main__":
    main()
