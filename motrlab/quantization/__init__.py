"""Quantisation: the scheme, fake-quantised graphs, calibration, QAT."""

import logging

# torchao reports CUDA libraries that a CPU machine cannot load, torch a deprecation inside torchao: noise in notebooks.
for _name in ("torchao", "torch.utils._pytree"):
    logging.getLogger(_name).setLevel(logging.ERROR)
