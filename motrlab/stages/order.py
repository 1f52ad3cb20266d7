"""Which stage needs which: what each leaves, and what goes when one is done anew."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from motrlab.run import Run

CHAIN = ("data", "float", "calibration", "qat", "fixed_point")


def is_done(run: Run, stage: str) -> bool:
    """Whether a stage has left what the next one needs."""
    if stage == "data":
        packed = all((run.data / f"{part}_lmdb").is_dir() for part in ("train", "test"))
        return packed and run.last_record("data", "data") is not None
    if stage == "fixed_point":
        return (run.artifact / "manifest.json").is_file()
    return checkpoint_file(run, stage).is_file()


def checkpoint_file(run: Run, stage: str) -> Path:
    """`checkpoints/STAGE/model.safetensors`."""
    return run.checkpoints(stage) / "model.safetensors"


@contextmanager
def replacing(run: Run, stage: str) -> Iterator[None]:
    """Around the work of `stage`: if its model comes out changed, what later stages made of the old one goes.

    Otherwise a report would set, say, a QAT model beside a float model that it does not come from. Half-done trainings
    stay: they know what they started from.
    """
    file = checkpoint_file(run, stage)
    before = file.read_bytes() if file.is_file() else None
    yield
    if before is None or file.read_bytes() == before:
        return
    side = ("float_extra",) if stage == "float" else ()  # beside the chain: the float model trained on
    for later in (*CHAIN[CHAIN.index(stage) + 1 :], *side):
        checkpoint_file(run, later).unlink(missing_ok=True)
    shutil.rmtree(run.artifact, ignore_errors=True)
