"""Stages `calibration` and `qat`."""

import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from motrlab.config import CalibrationConfig, Config
from motrlab.errors import UserError
from motrlab.model.motr import folded_copy
from motrlab.quantization.calibration import calibrate as calibrate_ranges
from motrlab.quantization.equalisation import equalise
from motrlab.quantization.qat import train_qat as fit_qat
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.run import Run, exclusive
from motrlab.stages.accuracy import network_inputs
from motrlab.stages.data import open_store
from motrlab.stages.models import load_float, load_quantized
from motrlab.stages.training import record_training
from motrlab.training.checkpoint import load_tensors


@exclusive
def calibrate(run: Run, *, num_frames: int = 0, stride: int = 0, sequences: Sequence[str] = ()) -> dict[str, Any]:
    """Fold, put on grids, and let observers watch the closed loop over the train halves; record kind `calibration`.

    0 and empty mean the preset's. Raises UserError if nobody is on the frames that would be watched.
    """
    started = time.time()
    asked: dict[str, Any] = {"num_frames": num_frames, "stride": stride, "sequences": tuple(sequences)}
    settings = replace(run.config.calibration, **{name: value for name, value in asked.items() if value})
    config = replace(run.config, calibration=settings)
    quantized = QuantizedMotr(folded_copy(load_float(run)), config.scheme)
    result = calibrate_ranges(quantized, calibration_videos(run, settings), config)
    if result.tracks_per_frame == 0:
        warnings.warn(
            f"calibration: the float model tracked nobody on {result.frames} frames, so the QIM's ranges are "
            "a norm's, not observed; train it further, or watch more frames",
            stacklevel=2,
        )
    quantized.save(run.model_file("calibration"), config)
    metrics: dict[str, float] = {"num_frames": result.frames, "num_sequences": result.sequences}
    metrics["tracks_per_frame"] = result.tracks_per_frame
    return run.add_record("calibration", "calibration", metrics, started=started, config=config)


def calibration_videos(run: Run, settings: CalibrationConfig) -> list[Iterator[torch.Tensor]]:
    """For each video of the train halves that is watched, its network inputs `[1, 3, H, W]` in order.

    Raises UserError if a video that `settings.sequences` names is missing, or nobody is on the frames.
    """
    store = open_store(run, "train")
    names = [info.name for info in store.sequences]
    missing = [name for name in settings.sequences if name not in names]
    if missing:
        raise UserError(f"calibration: no video {missing[0]!r} among the train halves; there are {', '.join(names)}")
    names = [n for n in names if n in settings.sequences] if settings.sequences else names[: settings.num_sequences]
    watched = -(-settings.num_frames // max(1, len(names))) * settings.stride
    if not any((store.annotations(name).counted(store.classes).frame <= watched).any() for name in names):
        raise UserError(
            f"calibration: nobody is on the first {watched} frames of {', '.join(names)}, so the QIM would only be "
            "seen with empty slots; take other calibration.sequences or more frames"
        )
    return [network_inputs(run, store, name) for name in names]


@exclusive
def train_qat(run: Run, *, steps: int = 0, lr: float = 0.0) -> dict[str, Any]:
    """Train on from the calibrated state; record kind `training`. `steps` 0, `lr` 0: the preset's."""
    config = _qat_config(run, steps, lr)
    if config.qat.steps > config.train.steps:
        warnings.warn(
            f"qat: {config.qat.steps} steps are more than the {config.train.steps} of the float training; meant is a "
            "short one, at a tenth of its steps or less",
            stacklevel=2,
        )
    quantized = load_quantized(run, "calibration")
    _, facts = load_tensors(run.model_file("calibration"))
    config = replace(config, calibration=Config.from_dict(facts["config"]).calibration)  # as it was asked for there
    start = folded_copy(load_float(run))
    if config.calibration.equalise:  # as calibration does, before it observes
        equalise(start)
    quantized.model.load_state_dict(start.state_dict())  # weights before they were rounded
    videos = calibration_videos(run, config.calibration)
    result = fit_qat(quantized, open_store(run, "train"), config, run.checkpoints("qat"), videos=videos)
    return record_training(run, "qat", result, config)


@exclusive
def train_float_extra(run: Run, *, steps: int = 0, lr: float = 0.0) -> dict[str, Any]:
    """The float model trained longer: as QAT trains, quantisers off; record kind `training` of stage `float_extra`.

    Same clips, learning rates and number of steps: what QAT gives beyond this is quantisation won back, the rest is
    longer training.
    """
    config = _qat_config(run, steps, lr)
    quantized = QuantizedMotr(folded_copy(load_float(run)), config.scheme)
    store, folder = open_store(run, "train"), run.checkpoints("float_extra")
    result = fit_qat(quantized, store, config, folder, quantise=False)
    return record_training(run, "float_extra", result, config)


def _qat_config(run: Run, steps: int, lr: float) -> Config:
    qat = run.config.qat
    return replace(run.config, qat=replace(qat, steps=steps or qat.steps, lr=lr or qat.lr))
