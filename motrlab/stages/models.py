"""Models of a run's stages, from their checkpoints."""

from motrlab.model.motr import Motr, MotrGraphs
from motrlab.quantization.quantized import QuantizedMotr
from motrlab.run import Run
from motrlab.tracking.step import Graphs
from motrlab.training.checkpoint import load_model


def load_float(run: Run) -> Motr:
    """The trained float model, in eval mode. Raises UserError if there is none."""
    return load_model(run.model_file("float"), run.config)


def load_quantized(run: Run, stage: str) -> QuantizedMotr:
    """The fake-quantised model of `calibration` or `qat`. Raises UserError if there is none."""
    return QuantizedMotr.load(run.config, run.model_file(stage))


def load_graphs(run: Run, stage: str) -> Graphs:
    """Graphs of `float`, `float_extra`, `calibration` or `qat`, ready for evaluation."""
    if stage == "float":
        return MotrGraphs(load_float(run))
    quantized = load_quantized(run, stage)
    if stage == "float_extra":
        quantized.mode("float")
    return quantized.graphs
