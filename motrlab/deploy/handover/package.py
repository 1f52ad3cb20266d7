"""What all hand-overs share: the float graphs with their encodings, calibration samples, expected outputs, a README."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from motrlab.deploy.compile import sqnr
from motrlab.deploy.encodings import Encoding, FloatForm, float_form
from motrlab.deploy.kernels import Array, onnxruntime_session
from motrlab.deploy.onnx_graph import save_onnx
from motrlab.deploy.runtime import OUTPUTS
from motrlab.deploy.samples import Sample
from motrlab.files import write_text

NUM_EXPECTED = 3
_DISCLAIMER = """The vendor's commands were not run here, unless the text says so; it says where they are from.
Public pages and repositories were read in November 2026."""


@dataclass
class Package:
    """A folder in the making.

    `samples`: frames to calibrate with, of the closed loop, all with tracks; `expected`: three frames to compare with.
    `told`: what the graphs are of. `chip`: what the toolchain calls it (`nash-m`), or empty.
    """

    folder: Path
    artifact: Path
    samples: Sequence[Sample]
    expected: Sequence[Sample]
    told: str
    chip: str = ""
    forms: dict[str, FloatForm] = field(init=False)

    def __post_init__(self) -> None:
        self.forms = {graph: float_form(onnx.load(self.artifact / f"{graph}.onnx")) for graph in OUTPUTS}

    def save(self, name: str, model: onnx.ModelProto) -> None:
        """An ONNX file of the folder."""
        save_onnx(model, self.folder / name)

    def write(self, name: str, text: str) -> None:
        write_text(self.folder / name, text)

    def calibration(self, ending: str = "npy") -> dict[str, dict[str, str]]:
        """`calibration/GRAPH/INPUT/000.npy` (or `.raw`, float32): a folder for each input, a file for each sample.

        Returns graph → input → its folder.
        """
        folders: dict[str, dict[str, str]] = {}
        for number, sample in enumerate(self.samples):
            for graph in OUTPUTS:
                for name, value in sample.float_inputs(graph).items():
                    place = folders.setdefault(graph, {}).setdefault(name, f"calibration/{graph}/{name}")
                    path = self.folder / place / f"{number:03d}.{ending}"
                    path.parent.mkdir(parents=True, exist_ok=True)
                    write_array(path, value)
        return folders

    def expectations(self) -> None:
        """`expected/frame_0.npz` and so on: `GRAPH.NAME`, inputs and outputs of the exact integers, as real values."""
        (self.folder / "expected").mkdir()
        for number, sample in enumerate(self.expected):
            arrays = {
                f"{graph}.{name}": value
                for graph in OUTPUTS
                for name, value in {**sample.float_inputs(graph), **sample.outputs[graph]}.items()
            }
            np.savez(self.folder / "expected" / f"frame_{number}.npz", **arrays)  # type: ignore[arg-type]

    def readme(self, title: str, steps: str) -> None:
        """`README.md`: what is here, then `steps`, what to do with it."""
        files = sorted(p.relative_to(self.folder).as_posix() for p in self.folder.iterdir() if p.name[0] != ".")
        listed = "\n".join(f"- `{name}`: {_meaning(name)}" for name in files)
        frames = len(self.samples)
        agreement = "\n".join(f"- {told}" for told in self.float_agreement())
        self.write("README.md", _README.format(title=title, told=self.told, files=listed, frames=frames, steps=steps,
                                               disclaimer=_DISCLAIMER, agreement=agreement))  # fmt: skip

    def float_agreement(self) -> list[str]:
        """How near the float files come to the expected outputs on ONNX Runtime, a line for each output."""
        lines = []
        for graph, outputs in OUTPUTS.items():
            session = onnxruntime_session(self.forms[graph].model.SerializeToString(), 1)
            found = [session.run(list(outputs), sample.float_inputs(graph)) for sample in self.expected]
            for index, name in enumerate(outputs):
                pairs = zip(found, self.expected, strict=True)
                noise = ", ".join(f"{sqnr(own[index], sample.outputs[graph][name]):.1f}" for own, sample in pairs)
                lines.append(f"`{graph}.{name}`: {noise} dB")
        return lines


def write_array(path: Path, value: Array) -> None:
    """float32, `.npy` or, with another ending, its bytes alone."""
    array = np.ascontiguousarray(value, np.float32)
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        path.write_bytes(array.tobytes())


def encodings_text(encodings: Mapping[str, Encoding]) -> str:
    """AIMET's encodings, version 2.0.0, of every tensor of a float graph."""
    rows = [_row(name, encoding) for name, encoding in encodings.items()]
    head: dict[str, Any] = {"version": "2.0.0", "producer": {"name": "motrlab", "version": version("motrlab")}}
    return json.dumps(head | {"encodings": rows}, indent=1) + "\n"


def _row(name: str, encoding: Encoding) -> dict[str, Any]:
    """Zero points are all 0, and left out; an unsigned grid begins there."""
    row: dict[str, Any] = {"name": name, "output_dtype": encoding.dtype, "y_scale": encoding.scale.tolist()}
    return row if encoding.axis is None else row | {"axis": encoding.axis}


def _meaning(name: str) -> str:
    """Of a file or folder, by its name."""
    return next(text for known, text in _MEANINGS.items() if known in name)


_MEANINGS = {
    ".float.onnx": "the network in float, with the weights of the grids",
    ".qdq.onnx": "the same with quantiser pairs",
    ".encodings": "the grid of every tensor of the float file (AIMET 2.0.0)",
    "calibration": "inputs of the closed loop, a folder for each input, a file for each sample, float32",
    "expected": "inputs of three frames, and the outputs of our integers",
    ".yaml": "configuration of the compiler",
    "quant_config": "which nodes have 16 bits",
    ".txt": "the calibration samples, one in a line",
}
_README = """# {title}

Of {told}. Two graphs, batch 1, all shapes fixed: `base` runs once for a frame, `qim` behind it.

{files}

The {frames} samples are frames of the tracker's own loop, all with tracks: empty track slots would give ranges that are
too small. Weights are int8 for each output channel, activations int8 (`uint8` behind a ReLU), symmetric; boxes,
positions and attention logits int16.

{disclaimer}

{steps}
## Compare

`expected/frame_N.npz` holds, for each graph, `GRAPH.INPUT` and `GRAPH.OUTPUT` of our exact integers in real values; the
boxes are fractions of the image. No other form gives the same bits. `GRAPH.float.onnx` on ONNX Runtime gives (signal to
noise, frame by frame):

{agreement}

A compiled graph is good if its outputs come about as near; 10 dB less is a layer to look for (`motrlab debug`).
"""
