"""A model in fixed point: the folded float model, the ranges of its tensors, its modes, and its file."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from motrlab.config import Config
from motrlab.config.scheme import PRODUCTS, Scheme
from motrlab.errors import UserError
from motrlab.model.motr import Motr, MotrGraphs, build_motr, folded_copy
from motrlab.quantization import functions
from motrlab.quantization.declare import declare, module_paths
from motrlab.quantization.grid_operations import GridOperations
from motrlab.quantization.grids import TORCH
from motrlab.quantization.observers import Ranges
from motrlab.training.checkpoint import load_tensors, part, save_model

MODES = {  # name → observers on, quantisation on
    "float": (False, False),
    "calibrate": (True, False),
    "evaluate": (False, True),  # also for a training whose ranges stay
    "train": (True, True),
}


class QuantizedMotr(nn.Module):
    """Both graphs of a folded model on grids; starts in mode `calibrate`.

    `model` is in eval mode; its parameters become this module's. A rule of `scheme` (default `Scheme()`) that fits
    nothing in either graph is warned of by its name.
    """

    def __init__(self, model: Motr, scheme: Scheme | None = None) -> None:
        super().__init__()
        self.config = model.config
        self.scheme = scheme or Scheme()
        self.model = model
        self.specs = declare(model, self.scheme)
        self.ranges = Ranges(list(self.specs.values()))
        self.net = GridOperations(module_paths(model), self.specs, self.ranges, self.scheme)
        for rule in self.scheme.rules:
            if not any(rule.fits(s.graph, s.operator, s.name) for s in self.specs.values()):
                told = f"quantisation rule {rule.label!r} fits no tensor: see the paths in the listing"
                warnings.warn(told, stacklevel=2)
        self.register_load_state_dict_post_hook(lambda module, _: module.net.refresh())
        self.mode("calibrate")

    def train(self, mode: bool = True) -> QuantizedMotr:
        """Nothing: BatchNorm is folded, and `mode` says what is meant."""
        return self

    def mode(self, name: str) -> None:
        """Switch observers and quantisation: see `MODES`. Integers of the weights are computed afresh."""
        self.net.observing, self.net.quantising = MODES[name]
        self.net.calibrating = name == "calibrate"
        self.net.refresh()
        self.current_mode = name

    def advance(self) -> None:
        """A frame of calibration is over: scales may have changed."""
        self.ranges.advance()
        self.net.refresh()

    @property
    def graphs(self) -> QuantizedGraphs:
        """What the frame step takes."""
        return QuantizedGraphs(self.model, net=self.net)

    @torch.no_grad()
    def detect_slots(self) -> tuple[Tensor, Tensor]:
        """Learned queries `[1, C, D / W, W]` and references `[1, 4, D / W, W]` on their grids; in mode `evaluate`."""
        empty = self.ranges.scale.new_zeros(1, 4, 0, self.config.slot_columns)
        return self.graphs.detect_query, self.net.references(self.model.base.detect, empty)

    def save(self, path: Path, config: Config, **facts: Any) -> None:
        """Write parameters, ranges and histograms as safetensors, with their config and scheme."""
        save_model(path, self, config, scheme=self.scheme.to_dict(), **facts)

    @staticmethod
    def load(config: Config, path: Path) -> QuantizedMotr:
        """A model of the file's scheme with the file's state; in mode `evaluate`.

        Raises UserError if the file is missing or of another preset.
        """
        tensors, facts = load_tensors(path)
        if "scheme" not in facts:
            raise UserError(f"{path}: not a quantised model; run the calibration stage first")
        quantised = QuantizedMotr(folded_copy(build_motr(config.model)), Scheme.from_dict(facts["scheme"]))
        try:
            quantised.load_state_dict(part(tensors, "model"))
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:160]
            raise UserError(f"{path}: written for another preset or by another motrlab ({reason})") from error
        quantised.mode("evaluate")
        return quantised


class QuantizedGraphs(MotrGraphs):
    """The graphs in their current mode as the frame step needs them; outside training, under `torch.no_grad()`."""

    _net: GridOperations

    @property
    def detect_query(self) -> Tensor:
        """On its grid."""
        self._net.graph = "base"
        return self._net.detect_query(self._model.base.detect).real

    def decode(self, boxes: Tensor) -> Tensor:
        floating = super().decode(boxes)
        if self._model.config.relative_boxes or not self._net.quantising:
            return floating
        return floating + (functions.box_of_logits(TORCH, boxes.detach()) - floating).detach()


def num_quantisers(quantised: QuantizedMotr) -> dict[str, int]:
    """How many activations and weights are quantised."""
    on = [spec.operator for spec in quantised.specs.values() if spec.quantised]
    return {"activations": sum(name != "head" for name in on), "weights": sum(name in PRODUCTS for name in on)}
