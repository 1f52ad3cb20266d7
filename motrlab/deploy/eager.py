"""The float model in PyTorch, as a network that can be measured beside the deployed ones."""

from __future__ import annotations

import torch

from motrlab.deploy.kernels import Array, Network
from motrlab.deploy.runtime import INPUTS
from motrlab.model.motr import Motr, MotrGraphs


def torch_networks(model: Motr, num_threads: int) -> list[Network]:
    """Base graph and QIM of `model`, eager, on `num_threads` threads each, whatever the process has."""
    graphs = MotrGraphs(model.eval())

    def network(graph: str) -> Network:
        def run(inputs: dict[str, Array]) -> list[Array]:
            before = torch.get_num_threads()
            torch.set_num_threads(num_threads)
            with torch.inference_mode():
                found = getattr(graphs, graph)(*(torch.from_numpy(inputs[name]) for name in INPUTS[graph]))
            torch.set_num_threads(before)
            if graph == "qim":
                return [found.numpy()]
            logits, boxes, embedding = found
            return [logits[-1].numpy(), boxes[-1].numpy(), embedding.numpy()]

        return run

    return [network("base"), network("qim")]
