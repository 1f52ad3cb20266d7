"""Ways to calibrate, compared on the same frames: observers, single frames, weights per tensor, and both options."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from tqdm import tqdm

from motrlab.config import Config
from motrlab.config.scheme import OBSERVERS
from motrlab.model.motr import Motr
from motrlab.quantization.analysis.probe import Probe, saturated_share
from motrlab.quantization.analysis.sensitivity import Score
from motrlab.quantization.analysis.sensitivity_tables import AS_CONFIGURED, SweepRow
from motrlab.quantization.calibration import Videos, calibrate
from motrlab.quantization.quantized import QuantizedMotr


def calibration_variants(config: Config) -> dict[str, Config]:
    """`config` itself, then each with one thing changed; those that would be the same as `config` are left out.

    Names: the observers, `single_frames`, `per_tensor_weights`, `equalise`, `adaptive_rounding`; where `config` has an
    option on, `no_…` is without it.
    """
    found = {AS_CONFIGURED: config}
    found |= {name: replace(config, scheme=config.scheme.with_observer(name)) for name in OBSERVERS}
    settings = config.calibration
    found["single_frames"] = replace(config, calibration=replace(settings, closed_loop=False))
    rules = tuple(replace(rule, per_channel=False) for rule in config.scheme.rules)
    found["per_tensor_weights"] = replace(config, scheme=replace(config.scheme, rules=rules))
    for option in ("equalise", "adaptive_rounding"):
        on = getattr(settings, option)
        changed: dict[str, Any] = {option: not on}
        found[f"no_{option}" if on else option] = replace(config, calibration=replace(settings, **changed))
    return {name: c for name, c in found.items() if name == AS_CONFIGURED or c != config}


def compare_calibrations(
    model: Motr,
    variants: Mapping[str, Config],
    videos: Callable[[Config], Videos],
    probe: Probe,
    score: Score = lambda _: {},
) -> list[SweepRow]:
    """Calibrate `model` (float, folded) in each way and measure it; rows in the order of `variants`.

    `variants`: name → config, which differ in scheme and calibration. `videos`: config → what its calibration watches.
    `probe`: of `model`.
    """
    rows = []
    for name, config in tqdm(variants.items(), desc="calibrations", disable=None):
        started = time.perf_counter()
        quantised = QuantizedMotr(copy.deepcopy(model), config.scheme)
        result = calibrate(quantised, videos(config), config)
        error = probe.output_error(quantised.graphs)
        row = SweepRow(
            variant=name,
            **error.each_db(),
            mean_db=error.mean_db,
            **score(quantised.graphs),
            saturated_share=saturated_share(quantised, probe),
            tracks_per_frame=result.tracks_per_frame,
            duration_s=time.perf_counter() - started,
        )
        rows.append(row)
    return rows
