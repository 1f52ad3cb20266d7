"""Float training of a run from the command line, in one process or many.

    python -m motrlab.training --run NAME
    torchrun --nproc-per-node 8 -m -- motrlab.training --run NAME
    accelerate launch --num_processes 8 -m motrlab.training --run NAME
    python -m motrlab.training --replay FILE

(Without the "--", torchrun takes --run for its own --run-path.) The run's data must be prepared. On several machines
its folder must be one that all of them see. `--replay` takes the step again that stopped a training because something
was not finite. Exit status as of `python -m motrlab`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from motrlab.errors import UserError, exit_status


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, or replay; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m motrlab.training", description="Float training of a run.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--run", metavar="NAME", help="the run's name")
    what.add_argument("--replay", type=Path, metavar="FILE", help="a step saved because something was not finite")
    parser.add_argument("--steps", type=int, default=0, help="optimiser updates (default: the run's)")
    parser.add_argument("--lr", type=float, default=0.0, help="learning rate (default: the run's)")
    options = parser.parse_args(arguments)
    try:
        return exit_status(lambda: print(_replay(options.replay)) if options.replay else _train(options))
    finally:
        _leave()


def _train(options: argparse.Namespace) -> None:
    from motrlab.run import Run
    from motrlab.stages.chain import require
    from motrlab.stages.training import train_float

    run = Run.open(options.run, create=False)
    require(run, "data")
    record = train_float(run, steps=options.steps, lr=options.lr)
    if record:  # empty in all processes but the first
        metrics = {k: round(v, 4) if isinstance(v, float) else v for k, v in record["metrics"].items()}
        print(", ".join(f"{name} {value}" for name, value in metrics.items()))


def _replay(file: Path) -> str:
    from motrlab.config import Config
    from motrlab.model.efficientnet import freeze_stages
    from motrlab.model.motr import build_motr
    from motrlab.training.checkpoint import load_tensors
    from motrlab.training.replay import replay_step
    from motrlab.training.trainee import float_trainee

    _, facts = load_tensors(file)
    if facts.get("kind") not in ("float", "qat"):
        raise UserError(f"{file}: not a step saved by a training; give a replay-*.safetensors file")
    config = Config.from_dict(facts["config"])
    if facts["kind"] == "float":
        model = build_motr(config.model)
        freeze_stages(model.base.backbone, config.train.frozen_stages)
        return replay_step(file, float_trainee(model, config), config)
    from motrlab.config.scheme import Scheme
    from motrlab.model.motr import folded_copy
    from motrlab.quantization.qat import qat_config, qat_trainee
    from motrlab.quantization.quantized import QuantizedMotr

    quantised = QuantizedMotr(folded_copy(build_motr(config.model)), Scheme.from_dict(facts["scheme"]))
    return replay_step(file, qat_trainee(quantised, config), qat_config(config))


def _leave() -> None:
    """End the process group, if there is one: a process that only exits leaves a warning."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


if __name__ == "__main__":
    sys.exit(main())
