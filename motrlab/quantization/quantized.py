"""A model with quantisers in both graphs, its modes, and its file."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from motrlab.config import Config
from motrlab.config.scheme import Scheme
from motrlab.errors import UserError
from motrlab.model.base import BaseOutput, decode_boxes
from motrlab.model.motr import Motr, build_motr, folded_copy
from motrlab.quantization.equalisation import equalise as equalise_ranges
from motrlab.quantization.graph_edits import runtime_edits
from motrlab.quantization.prepare import capture, fake_quantizers, prepare
from motrlab.training.checkpoint import load_tensors, save_model

MODES = {  # name → observers on, fake quantisation on
    "float": (False, False),
    "calibrate": (True, False),
    "evaluate": (False, True),
    "train": (True, True),
    "train_frozen": (False, True),
}


class QuantizedMotr(nn.Module):
    """Both graphs of a folded model, captured and prepared once; starts in mode `calibrate`.

    Args:
        model: folded, in eval mode; the graphs share its parameters.
        scheme: default `Scheme()`. A rule that fits nothing in either graph is warned of by its name.
        equalise: whether to equalise the ranges of neighbouring layers first (`equalisation.equalise`).
    """

    def __init__(self, model: Motr, scheme: Scheme | None = None, *, equalise: bool = False) -> None:
        super().__init__()
        self.config = model.config
        self.scheme = scheme or Scheme()
        graphs = dict(zip(("base", "qim"), capture(model), strict=True))
        if equalise:
            for graph in graphs.values():
                equalise_ranges(graph)
        prepared = {name: prepare(graph, name, self.scheme) for name, graph in graphs.items()}
        self.base, self.qim = (part.graph_module for part in prepared.values())
        self.decisions = [(name, *d) for name, part in prepared.items() for d in part.decisions]
        self.marks = [mark for part in prepared.values() for mark in part.marks]
        for rule in self.scheme.rules:
            if not any(rule in part.fitting for part in prepared.values()):
                warnings.warn(
                    f"quantisation rule {rule.label!r} fits no operator: see the paths in the listing", stacklevel=2
                )
        self.current_mode = ""
        self.mode("calibrate")

    def train(self, mode: bool = True) -> QuantizedMotr:
        """Nothing: exported graphs refuse it, and `mode` says what is meant."""
        return self

    def mode(self, name: str) -> None:
        """Switch observers and fake quantisation: see `MODES`. Exported graphs refuse `.train()` and `.eval()`."""
        observing, quantising = MODES[name]
        for module in (*self.fake_quantizers(), *runtime_edits(self.base), *runtime_edits(self.qim)):
            module.set_mode(observing=observing, quantising=quantising, calibrating=name == "calibrate")
        self.current_mode = name

    def fake_quantizers(self) -> list[Any]:
        """All quantiser modules, base graph first."""
        return [*fake_quantizers(self.base), *fake_quantizers(self.qim)]

    @property
    def graphs(self) -> QuantizedGraphs:
        """What the frame step takes."""
        return QuantizedGraphs(self)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Parameters, scales and observer states; caches of the old state are dropped."""
        result = super().load_state_dict(state_dict, strict, assign)
        self.mode(self.current_mode)
        return result

    def save(self, path: Path, config: Config, **facts: Any) -> None:
        """Write parameters, scales and observer states as safetensors, with their config and scheme."""
        save_model(path, self, config, scheme=self.scheme.to_dict(), **facts)

    @staticmethod
    def load(config: Config, path: Path) -> QuantizedMotr:
        """Capture a fresh model, prepare it by the file's scheme, and load the file's state; in mode `evaluate`.

        Raises UserError if the file is missing or of another preset.
        """
        tensors, facts = load_tensors(path)
        if "scheme" not in facts:
            raise UserError(f"{path}: not a quantised model; run the calibration stage first")
        quantised = QuantizedMotr(folded_copy(build_motr(config.model)), Scheme.from_dict(facts["scheme"]))
        state = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
        try:
            quantised.load_state_dict(state)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:160]
            raise UserError(f"{path}: written for another preset ({reason})") from error
        quantised.mode("evaluate")
        return quantised


class QuantizedGraphs:
    """The graphs in their current mode as the frame step wants them (`tracking.step.Graphs`).

    Outside training, call under `torch.no_grad()`.
    """

    def __init__(self, quantised: QuantizedMotr) -> None:
        self._quantised = quantised

    @property
    def detect_query(self) -> Tensor:
        """The captured graph's own parameter, so that gradients through both uses add up."""
        return self._quantised.base.get_parameter("detect.query")

    def base(self, frame: Tensor, query: Tensor, mask: Tensor, reference: Tensor) -> BaseOutput:
        output: BaseOutput = self._quantised.base(frame, query, mask, reference)
        return output

    def qim(self, embedding: Tensor, query: Tensor, mask: Tensor) -> Tensor:
        out: Tensor = self._quantised.qim(embedding, query, mask)
        return out

    def decode(self, boxes: Tensor) -> Tensor:
        return decode_boxes(boxes, self._quantised.config)


def num_quantisers(quantised: QuantizedMotr) -> dict[str, int]:
    """How many activations and weights are quantised."""
    kinds = [type(m).__name__ for m in quantised.fake_quantizers()]
    weights = kinds.count("PerChannelFakeQuantize")
    return {"activations": len(kinds) - weights, "weights": weights}
