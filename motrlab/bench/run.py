"""The bench: stages against the processor, training steps, a training. One command, in pieces, started again at will.

Every piece is a line of results as soon as it is done, also where it failed; started again, what went well on this
device is not done again.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from motrlab.bench.agreement import CHECKS, no_tf32
from motrlab.bench.results import Results
from motrlab.bench.steps import COMPILED, Stepper, measure, one_length
from motrlab.bench.training import bench_run, short_name, train
from motrlab.config import Config, load_preset
from motrlab.config.fields import with_fields
from motrlab.data.store import FrameStore
from motrlab.errors import UserError
from motrlab.machine import hardware, num_cpus
from motrlab.run import Run
from motrlab.stages.data import open_store, prepare_data

PARTS = ("agreement", "steps", "compiled", "train")
_COMPILE_MINUTES = 4.0  # so much must be left to begin compiling one more form of a step
_REPEATS = 20


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What is asked for. `data`: packed halves (`pack-halves`); None: `street`'s videos, and no training.

    `minutes`: of all pieces together. `smoke`: the preset whose stages are compared; `presets`: whose steps are timed,
    the first of them is trained. `fields`: `FIELD=VALUE` of its config.
    """

    device: str
    minutes: float
    out: Path
    data: Path | None = None
    parts: Sequence[str] = PARTS
    smoke: str = "smoke"
    presets: Sequence[str] = ("mot17_small", "mot17")
    fields: Sequence[str] = ()
    repeats: int = _REPEATS
    backend: str = "inductor"


def find_device(name: str) -> torch.device:
    """Raises UserError where there is no such device."""
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(f"bench: torch {torch.__version__} sees no CUDA device here; give --device cpu")
    if name not in ("cpu", "cuda"):
        raise UserError(f"bench: unknown device {name!r}; give cpu or cuda")
    return torch.device(name)


def bench(asked: Bench) -> Path:
    """Do what is missing; the table's path. Raises UserError for what a user did wrong, not for a piece that fails."""
    device = find_device(asked.device)
    if unknown := [part for part in asked.parts if part not in PARTS]:
        raise UserError(f"bench: unknown piece {unknown[0]!r}; give some of {','.join(PARTS)}")
    small = with_fields(load_preset(asked.presets[0]), asked.fields)
    if asked.data is not None:
        own = bench_run(small, asked.data)  # a wrong folder is told at once
    results = Results(asked.out, asked.device)
    results.describe(torch.cuda.get_device_name() if device.type == "cuda" else hardware()["cpu"])
    todo = _Todo(results, time.monotonic() + asked.minutes * 60)
    run = Run.open("bench-smoke", asked.smoke)
    if ("agreement" in asked.parts or asked.data is None) and not run.has("data"):
        prepare_data(run, num_workers=num_cpus())
    if "agreement" in asked.parts:
        for name, check in CHECKS.items():
            with no_tf32():
                todo.do(f"agreement.{name}", lambda check=check: check(run, device))  # type: ignore[misc]
    store = FrameStore(asked.data / "train_lmdb") if asked.data is not None else open_store(run, "train")
    if "steps" in asked.parts:
        _steps(asked, todo, store, device, ("",), asked.presets)
    if "compiled" in asked.parts:
        _steps(asked, todo, store, device, COMPILED[1:], asked.presets[:1])
    if "train" in asked.parts and asked.data is not None:
        todo.do(f"train.{short_name(small.preset)}", lambda: train(results, own, todo.minutes_left(), device))
    return results.folder / "results.md"


def _steps(
    asked: Bench, todo: _Todo, store: FrameStore, device: torch.device, modes: Sequence[str], presets: Sequence[str]
) -> None:
    """Every preset in float32 and bfloat16, in each of `modes`."""
    for preset in presets:
        config = one_length(load_preset(preset))
        if device.type == "cuda":
            config = replace(config, num_workers=max(1, min(8, num_cpus() - 1)))
        for mode in modes:
            for bf16 in (False, True):
                piece = ".".join(("steps", short_name(preset), "bf16" if bf16 else "fp32", mode or "eager"))

                def run(config: Config = config, mode: str = mode, bf16: bool = bf16) -> dict[str, Any]:
                    stepper = Stepper(config, store, device, bf16=bf16, mode=mode, backend=asked.backend)
                    return measure(stepper, asked.repeats, todo.deadline)

                todo.do(piece, run, least=_COMPILE_MINUTES if mode else 0.0)


class _Todo:
    """Pieces done one by one, within the time."""

    def __init__(self, results: Results, deadline: float) -> None:
        self.results, self.deadline = results, deadline

    def minutes_left(self) -> float:
        return max(0.0, (self.deadline - time.monotonic()) / 60)

    def do(self, piece: str, make: Callable[[], dict[str, Any]], *, least: float = 0.0) -> None:
        """Unless it is done, or fewer than `least` minutes are left."""
        if self.results.get(piece) is not None:
            return
        if self.minutes_left() <= least:
            print(f"bench: {piece} left out, {self.minutes_left():.1f} minutes left", file=sys.stderr)
            return
        started = time.monotonic()
        try:
            found = make()
        except UserError as error:
            found = {"error": str(error)}
        except Exception as error:  # the next pieces still tell something, and time on the machine is short
            traceback.print_exc()
            found = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        self.results.add(piece, {**found, "seconds": round(time.monotonic() - started, 1)})
        print(f"bench: {piece}: {self.results.lines[-1]}", file=sys.stderr)
