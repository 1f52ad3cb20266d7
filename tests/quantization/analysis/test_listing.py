"""Every tensor is listed once, with the grid it has and the rule that decided."""

from __future__ import annotations

import pytest
import torch

from motrlab.config.scheme import PRODUCTS, Rule, Scheme
from motrlab.model.motr import Motr
from motrlab.quantization import functions
from motrlab.quantization.analysis.layers import QuantisedTensor
from motrlab.quantization.analysis.listing import listing_table, quantised_tensors
from motrlab.quantization.equalisation import product
from motrlab.quantization.quantized import QuantizedMotr, num_quantisers


def of_kind(quantised: QuantizedMotr, kind: str) -> dict[tuple[str, str], QuantisedTensor]:
    found = [t for t in quantised_tensors(quantised) if t.kind == kind]
    by_key = {(t.graph, t.tensor): t for t in found}
    assert len(by_key) == len(found)
    return by_key


def test_every_tensor_is_listed_with_its_rule(quantised: QuantizedMotr) -> None:
    activations, weights = of_kind(quantised, "activation"), of_kind(quantised, "weight")
    counted = num_quantisers(quantised)
    assert (len(activations), len(weights)) == (counted["activations"], counted["weights"])
    assert list(activations) == [key for key, spec in quantised.specs.items() if spec.operator != "head"]
    assert weights.keys() == {key for key, spec in quantised.specs.items() if spec.operator in PRODUCTS}
    for key, tensor in (activations | weights).items():
        assert tensor.rule == quantised.scheme.find(key[0], tensor.operator, key[1]).label
        assert tensor.bits == 8


def test_grids(quantised: QuantizedMotr) -> None:
    activations = of_kind(quantised, "activation")
    image = activations["base", "image"]
    assert (image.scale, image.observer, image.reach) == (1 / 128, "fixed", 127 / 128)
    for key, tensor in activations.items():
        spec = quantised.specs[key]
        assert tensor.scale == quantised.net.scale(spec)
        # The widest of the tensors on a grid reaches just as far as the grid.
        group = [t for t in activations.values() if t.group == tensor.group]
        largest = max(float(quantised.ranges.largest[quantised.ranges._index[t.graph, t.tensor]]) for t in group)
        if tensor.observer != "fixed":
            assert tensor.reach == pytest.approx(largest, rel=1e-5)
    assert activations["base", "encoder.0.ffn.expand"].highest == 255
    asked, against = (activations["base", f"decoder.0.self_attention.{part}"] for part in ("query", "key"))
    assert asked.group == against.group != activations["base", "decoder.0.self_attention.value"].group
    assert activations["qim", "norm3"].group == activations["base", "track_query"].group


@torch.no_grad()
def test_weights(quantised: QuantizedMotr, base_inputs: tuple[torch.Tensor, ...]) -> None:
    quantised.graphs.base(*base_inputs)
    checked = 0
    for key, tensor in of_kind(quantised, "weight").items():
        layer = product(quantised.model, key)
        assert tensor.reach == pytest.approx(float(layer.weight.abs().max()))
        assert (tensor.observer, tensor.group) == ("per channel", None)
        integers = quantised.net._known.get(id(layer))  # those that the base graph has just used
        if integers is not None and tensor.scale > 0:  # weights that are all zero have the scale of their bias
            assert tensor.scale == pytest.approx(float(integers.scale.max()))
            checked += 1
    assert checked > 20


def test_the_grids_of_functions_are_listed(quantised: QuantizedMotr) -> None:
    found = {t.tensor: t for t in quantised_tensors(quantised) if t.kind == "function"}
    assert found["boxes"].scale == 2**-14
    assert found["attention logits"].scale == 1 / 16
    values = functions.on_reference_grid(_Numbers(), torch.tensor([-9.0, 0.3, 9.0]).numpy())
    assert values[2] == pytest.approx(found["boxes"].reach)
    assert (values[1] / found["boxes"].scale) % 1 == 0


class _Numbers:
    """Arithmetic on NumPy arrays."""

    def const(self, x: float) -> float:
        return x

    def round(self, x: object) -> object:
        return x.round()  # type: ignore[attr-defined]

    def clip(self, x: object, low: float, high: float) -> object:
        return x.clip(low, high)  # type: ignore[attr-defined]


def test_the_last_rule_is_the_one_listed_and_float_tensors_are_not(float_model: Motr) -> None:
    mine = Rule(name="mine", operator="linear", path="decoder.1.ffn.*", observer="kl", per_channel=False)
    left = Rule(path="decoder.0.ffn.*", precision="float")
    wide = Rule(operator="sampling", precision="int16")
    scheme = Scheme(weight_bits=7, signed_only=True).with_rules(mine, left, wide)
    tensors = quantised_tensors(QuantizedMotr(float_model, scheme))
    found = [t for t in tensors if t.rule == "mine"]
    assert {t.tensor for t in found} == {"decoder.1.ffn.expand", "decoder.1.ffn.project"}
    assert {t.observer for t in found} == {"kl", "per tensor"}
    assert not [t for t in tensors if t.tensor.startswith("decoder.0.ffn")]
    assert {t.bits for t in tensors if t.kind == "weight"} == {7}
    assert {t.highest for t in tensors if t.kind == "weight"} == {63}
    assert {(t.bits, t.highest) for t in tensors if t.operator == "sampling"} == {(16, 2**15 - 1)}
    assert {t.highest for t in tensors if t.kind == "activation" and t.operator == "conv"} == {127}


def test_table(quantised: QuantizedMotr) -> None:
    tensors = quantised_tensors(quantised)
    header, *lines = listing_table(tensors).splitlines()
    assert len(lines) == len(tensors)
    assert header.split() == ["graph", "tensor", "kind", "operator", "bits", "scale", "observer", "rule", "group"]
    image = next(line for line in lines if " image " in line)
    assert image.split() == ["base", "image", "activation", "input", "8", "0.00781", "fixed", "all", "0"]
