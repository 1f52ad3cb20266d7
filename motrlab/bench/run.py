"""The bench: stages against the processor, training steps, a training. One command, in pieces, started again at will.

Every piece is a line of results as soon as it is done, also where it failed; started again, what went well on this
device, made from the same config and data, is not done again.
"""

from __future__ import annotations

import math
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from motrlab.bench.agreement import CHECKS, no_tf32
from motrlab.bench.results import Results, made_from
from motrlab.bench.steps import COMPILED, Stepper, measure, one_length
from motrlab.bench.training import bench_run, short_name, start_model, train, training_made_from
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
    """What is asked for. `data`: packed halves (`pack-halves`), which `train` needs; None: `street`'s videos.

    `minutes`: of all pieces together. `smoke`: the preset whose stages are compared; `presets`: whose steps are timed,
    the first of them is trained. `fields`: `FIELD=VALUE` of the configs of `presets`.
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


def bench(asked: Bench) -> tuple[Path, list[str]]:
    """Do what is missing; the table's path, and the pieces that failed or differ from the processor's.

    Raises UserError for what a user did wrong, before anything is done.
    """
    device, configs = find_device(asked.device), _checked(asked)
    if asked.data is not None:
        own = bench_run(configs[0], asked.data)
        training = training_made_from(own)
        if "train" in asked.parts:
            start_model(own)  # its weights are missing? Said now
    run = Run.open("bench-smoke", asked.smoke)
    results = Results(asked.out, asked.device)
    results.describe(torch.cuda.get_device_name() if device.type == "cuda" else hardware()["cpu"])
    todo = _Todo(results, time.monotonic() + asked.minutes * 60)
    if ("agreement" in asked.parts or asked.data is None) and not run.has("data"):
        prepare_data(run, num_workers=num_cpus())
    if "agreement" in asked.parts:
        made = made_from(run.config)
        for name, check in CHECKS.items():
            with no_tf32():
                todo.do(f"agreement.{name}", made, lambda check=check: check(run, device))  # type: ignore[misc]
    store = FrameStore(asked.data / "train_lmdb") if asked.data is not None else open_store(run, "train")
    if "steps" in asked.parts:
        _steps(asked, todo, store, device, ("",), configs)
    if "compiled" in asked.parts:
        _steps(asked, todo, store, device, COMPILED[1:], configs[:1])
    if "train" in asked.parts:
        piece = f"train.{short_name(own.config.preset)}"
        todo.do(piece, training, lambda: train(results, own, todo.minutes_left(), device))
    return results.folder / "results.md", todo.wrong


def _checked(asked: Bench) -> list[Config]:
    """The presets' configs with their fields. Raises UserError."""
    if unknown := [part for part in asked.parts if part not in PARTS]:
        raise UserError(f"bench: unknown piece {unknown[0]!r}; give some of {','.join(PARTS)}")
    if not 0 < asked.minutes < math.inf:
        raise UserError(f"bench: minutes is a number above 0, not {asked.minutes:g}")
    if "train" in asked.parts and asked.data is None:
        raise UserError("bench: a training needs --data DIR; `python -m motrlab pack-halves` makes it")
    if not asked.presets:
        raise UserError("bench: no preset; give at least one to --presets")
    return [with_fields(load_preset(preset), asked.fields) for preset in asked.presets]


def _steps(
    asked: Bench, todo: _Todo, store: FrameStore, device: torch.device, modes: Sequence[str], configs: Sequence[Config]
) -> None:
    """Every config in float32 and bfloat16, in each of `modes`."""
    for whole in configs:
        config, made = one_length(whole), made_from(whole, store.data_hash)
        if device.type == "cuda":
            config = replace(config, num_workers=max(1, min(8, num_cpus() - 1)))
        for mode in modes:
            for bf16 in (False, True):
                piece = ".".join(("steps", short_name(whole.preset), "bf16" if bf16 else "fp32", mode or "eager"))

                def run(config: Config = config, mode: str = mode, bf16: bool = bf16) -> dict[str, Any]:
                    stepper = Stepper(config, store, device, bf16=bf16, mode=mode, backend=asked.backend)
                    return measure(stepper, asked.repeats, todo.deadline)

                todo.do(piece, made, run, least=_COMPILE_MINUTES if mode else 0.0)


class _Todo:
    """Pieces done one by one, within the time; `wrong`: those that failed or are not within their tolerance."""

    def __init__(self, results: Results, deadline: float) -> None:
        self.results, self.deadline = results, deadline
        self.wrong: list[str] = []

    def minutes_left(self) -> float:
        return max(0.0, (self.deadline - time.monotonic()) / 60)

    def do(self, piece: str, made: str, make: Callable[[], dict[str, Any]], *, least: float = 0.0) -> None:
        """Unless it is done, or fewer than `least` minutes are left."""
        line = self.results.get(piece, made)
        if line is None and self.minutes_left() <= least:
            print(f"bench: {piece} left out, {self.minutes_left():.1f} minutes left", file=sys.stderr)
            return
        line = line or self._do(piece, made, make)
        if "error" in line or line.get("within") is False:
            self.wrong.append(piece)

    def _do(self, piece: str, made: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        started = time.monotonic()
        try:
            found = make()
        except UserError as error:
            found = {"error": str(error)}
        except Exception as error:  # the next pieces still tell something, and time on the machine is short
            traceback.print_exc()
            found = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        self.results.add(piece, made, {**found, "seconds": round(time.monotonic() - started, 1)})
        print(f"bench: {piece}: {self.results.lines[-1]}", file=sys.stderr)
        return self.results.lines[-1]
