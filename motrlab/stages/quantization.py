"""Stages `calibration` and `qat`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch

from motrlab.data.preprocess import preprocess
from motrlab.model.motr import folded_copy
from motrlab.quantization.calibration import calibrate as calibrate_ranges
from motrlab.quantization.qat import train_qat as fit_qat
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.run import Run
from motrlab.stages.accuracy import read_frames
from motrlab.stages.data import open_store
from motrlab.stages.models import load_float, load_quantized
from motrlab.stages.order import checkpoint_file, replacing
from motrlab.stages.training import record_training


def calibrate(run: Run, *, num_frames: int = 0) -> dict[str, Any]:
    """Fold, prepare, and let observers watch the closed loop over the train halves; record kind `calibration`.

    `num_frames` 0 means the preset's.
    """
    started = time.time()
    settings = run.config.calibration
    config = replace(run.config, calibration=replace(settings, num_frames=num_frames or settings.num_frames))
    store, model = open_store(run, "train"), config.model
    quantized = QuantizedMotr(folded_copy(load_float(run)))

    def network_inputs(name: str) -> Iterator[torch.Tensor]:
        for image in read_frames(store, name):
            yield torch.from_numpy(preprocess(image, model.height, model.width))[None]

    inputs = (network_inputs(info.name) for info in store.sequences)
    result = calibrate_ranges(quantized, inputs, config)
    with replacing(run, "calibration"):
        quantized.save(checkpoint_file(run, "calibration"), config)
    metrics = {
        "num_frames": result.frames,
        "num_sequences": result.sequences,
        "tracks_per_frame": result.tracks_per_frame,
    }
    return run.add_record("calibration", "calibration", metrics, started=started, config=config)


def train_qat(run: Run, *, steps: int = 0, lr: float = 0.0) -> dict[str, Any]:
    """Train on from the calibrated state; record kind `training`. `steps` and `lr` 0 mean the preset's."""
    qat = replace(run.config.qat, steps=steps or run.config.qat.steps, lr=lr or run.config.qat.lr)
    config = replace(run.config, qat=qat)
    quantized = load_quantized(run, "calibration")
    with replacing(run, "qat"):
        result = fit_qat(quantized, open_store(run, "train"), config, run.checkpoints("qat"))
    return record_training(run, "qat", result, config)
