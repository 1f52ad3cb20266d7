"""What comes with motrlab: weights of `street` and their artefact, so that everybody has a tracker at once.

`make weights` makes them again: it runs `make demo` and takes what that left (`stages/shipping.py`). They are trained
on the embedded synthetic videos alone, and stand under motrlab's own licence.
"""

from __future__ import annotations

from pathlib import Path

from motrlab.errors import UserError

SHIPPED = "street"  # what `TrainConfig.init` calls the weights
FOLDER = Path(__file__).parent / "weights"
WEIGHTS, ARTIFACT, PROVENANCE = "street.safetensors", "artifact", "provenance.json"


def shipped_weights() -> Path:
    """The float weights, as float16. Raises UserError where this installation has none."""
    return _found(WEIGHTS)


def shipped_artifact() -> Path:
    """The artefact's folder. Raises UserError where this installation has none."""
    return _found(ARTIFACT)


def _found(name: str) -> Path:
    if not (FOLDER / name).exists():
        raise UserError(f"{FOLDER / name}: does not come with this installation; `make weights` makes it again")
    return FOLDER / name
