"""The prepared graphs: equal to the float model while off, close to it while on, the same after a round trip."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from motrlab.config import Config
from motrlab.config.scheme import Rule, Scheme
from motrlab.errors import UserError
from motrlab.model.base import BaseOutput
from motrlab.model.motr import Motr, build_motr, folded_copy
from motrlab.quantization.listing import listing_table, quantised_tensors
from motrlab.quantization.prepare import example_inputs
from motrlab.quantization.quantized import QuantizedMotr, num_quantisers

Inputs = tuple[Tensor, ...]


def flat(output: BaseOutput) -> list[Tensor]:
    return [*output[0], *output[1], output[2]]


@torch.no_grad()
def test_off_equals_the_float_model(quantised: QuantizedMotr, float_model: Motr, base_inputs: Inputs) -> None:
    quantised.mode("float")
    for found, expected in zip(flat(quantised.base(*base_inputs)), flat(float_model.base(*base_inputs)), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    tokens = torch.randn(2, quantised.config.d_model, 1, quantised.config.num_track)
    inputs = (tokens, tokens.flip(1), base_inputs[2])
    torch.testing.assert_close(quantised.qim(*inputs), float_model.qim(*inputs), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_on_is_close_but_not_equal(quantised: QuantizedMotr, float_model: Motr, base_inputs: Inputs) -> None:
    found, expected = quantised.base(*base_inputs)[2], float_model.base(*base_inputs)[2]
    error = float((found - expected).norm() / expected.norm())
    assert 1e-4 < error < 0.3


@torch.no_grad()
def test_batch_of_two_equals_two_singles(quantised: QuantizedMotr, base_inputs: Inputs) -> None:
    both = flat(quantised.base(*base_inputs))
    for index in range(2):
        alone = flat(quantised.base(*(x[index : index + 1] for x in base_inputs)))
        for found, expected in zip(alone, both, strict=True):
            # One rounding tie may fall the other way where a product is summed in another order.
            assert float((found[0] - expected[index]).abs().mean()) < 1e-3


@torch.no_grad()
def test_garbage_in_padding_changes_nothing(quantised: QuantizedMotr, base_inputs: Inputs) -> None:
    image, query, mask, reference = base_inputs
    slots = mask.reshape(2, 1, *query.shape[2:]) == 1
    garbage = torch.where(slots, query, query.new_tensor(37.0))
    boxes = torch.where(slots, reference, reference.new_tensor(0.9))
    clean, dirty = quantised.base(*base_inputs), quantised.base(image, garbage, mask, boxes)
    detect = quantised.config.num_detect
    real = torch.cat((torch.ones(2, detect, dtype=torch.bool), mask.flatten(1) == 1), 1)
    for found, expected in zip(flat(dirty), flat(clean), strict=True):
        keep = real[:, None].expand(-1, found.shape[1], -1)
        assert torch.equal(found.flatten(2)[keep], expected.flatten(2)[keep])
    tokens = query.reshape(2, query.shape[1], 1, -1)
    dirty_tokens = garbage.reshape(tokens.shape)
    live = (mask == 1).expand_as(tokens)
    assert torch.equal(quantised.qim(dirty_tokens, dirty_tokens, mask)[live], quantised.qim(tokens, tokens, mask)[live])


def test_relu6_is_quantised_behind_as_relu_is(config: Config) -> None:
    """No quantiser stands between a convolution and its activation, whichever the backbone has."""
    counts = {}
    for activation in ("relu", "relu6"):
        model = build_motr(replace(config.model, activation=activation), seed=3)
        quantised = QuantizedMotr(folded_copy(model))
        counts[activation] = num_quantisers(quantised)
        nodes = [n for n in quantised.base.graph.nodes if n.target is torch.ops.aten.hardtanh.default]
        assert (len(nodes) > 0) == (activation == "relu6")
        assert all(n.args[0].name.startswith("conv2d") for n in nodes)
    assert counts["relu"] == counts["relu6"]


def test_every_product_is_quantised(quantised: QuantizedMotr) -> None:
    kinds = [(graph, operator) for graph, operator, _, _ in quantised.decisions]
    config = quantised.config
    attentions = 2 * config.decoder_layers
    assert kinds.count(("base", "matmul")) == 2 * attentions
    assert kinds.count(("qim", "matmul")) == 2
    # offsets and weights of every deformable attention, class and box outputs of every decoder layer
    assert kinds.count(("base", "linear")) == 2 * (config.encoder_layers + config.decoder_layers) + 2 * (
        config.decoder_layers
    )
    assert num_quantisers(quantised)["weights"] < len(kinds)


@torch.no_grad()
def test_folded_weights_change_nothing(quantised: QuantizedMotr, base_inputs: Inputs) -> None:
    first = flat(quantised.base(*base_inputs))
    quantised.mode("train_frozen")  # computes the quantised weights anew
    for found, expected in zip(flat(quantised.base(*base_inputs)), first, strict=True):
        assert torch.equal(found, expected)


def test_round_trip_through_a_file(
    quantised: QuantizedMotr, config: Config, base_inputs: Inputs, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    quantised.save(path, config)
    loaded = QuantizedMotr.load(config, path)
    assert loaded.current_mode == "evaluate"
    for name, value in quantised.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    with torch.no_grad():
        for found, expected in zip(flat(loaded.base(*base_inputs)), flat(quantised.base(*base_inputs)), strict=True):
            assert torch.equal(found, expected)
    other = replace(config, model=replace(config.model, decoder_layers=1))
    with pytest.raises(UserError, match="another preset"):
        QuantizedMotr.load(other, path)
    with pytest.raises(UserError, match="no checkpoint"):
        QuantizedMotr.load(config, tmp_path / "none.safetensors")


def test_detect_query_is_the_graphs_own_parameter(quantised: QuantizedMotr) -> None:
    names = dict(quantised.named_parameters())
    assert quantised.graphs.detect_query is names["base.detect.query"]
    assert "qim.norm3.weight" in names


@torch.no_grad()
def test_a_float_rule_leaves_an_operator_alone(config: Config, float_model: Motr) -> None:
    scheme = Scheme().with_rules(Rule(graph="base", path="backbone.*", precision="float"))
    quantised = QuantizedMotr(float_model, scheme)
    assert not [path for graph, _, path, _ in quantised.decisions if path.startswith("backbone")]
    base, _ = example_inputs(config.model)
    quantised.base(*base)
    quantised.mode("evaluate")
    assert torch.isfinite(quantised.base(*base)[2]).all()


def test_a_rule_that_fits_nothing_is_named(float_model: Motr) -> None:
    scheme = Scheme().with_rules(Rule(name="spelt wrongly", path="bakbone.*", precision="float"))
    with pytest.warns(UserWarning, match="'spelt wrongly' fits no operator"):
        QuantizedMotr(float_model, scheme)


def test_the_default_scheme_warns_of_nothing(float_model: Motr, recwarn: pytest.WarningsRecorder) -> None:
    QuantizedMotr(float_model)
    assert not [w for w in recwarn if "fits no operator" in str(w.message)]


def test_every_quantiser_is_listed_with_its_rule(quantised: QuantizedMotr) -> None:
    tensors = quantised_tensors(quantised)
    assert len(tensors) == len(quantised.fake_quantizers())
    assert len({(t.graph, t.module) for t in tensors}) == len(tensors)
    for tensor in tensors:
        rule = quantised.scheme.find(tensor.graph, tensor.operator, tensor.path)
        assert rule is not None
        assert tensor.rule == rule.label, tensor
        assert tensor.bits == (16 if rule.precision == "int16" else 8)
    by_tensor = {(t.graph, t.tensor): t for t in tensors}
    assert by_tensor["base", "image"].scale == 1 / 128
    assert by_tensor["base", "image"].observer == "fixed"
    assert by_tensor["base", "track_mask"].reach == 127.0
    grids = [t for t in tensors if t.operator == "sampling"]
    assert len(grids) == quantised.config.encoder_layers + quantised.config.decoder_layers
    assert {t.bits for t in grids} == {16}
    text = listing_table(tensors)
    assert len(text.splitlines()) == len(tensors) + 1
    assert "sampling grid" in text


def test_the_last_rule_is_the_one_listed(config: Config, float_model: Motr) -> None:
    mine = Rule(name="mine", operator="conv", path="decoder.1.ffn.*", observer="kl", per_channel=False)
    tensors = quantised_tensors(QuantizedMotr(float_model, Scheme().with_rules(mine)))
    found = [t for t in tensors if t.rule == "mine"]
    assert {t.path for t in found} == {"decoder.1.ffn.expand", "decoder.1.ffn.project"}
    assert {t.observer for t in found} == {"kl", "per tensor"}


@torch.no_grad()
def test_inputs_can_be_int16_and_norms_int8(config: Config, float_model: Motr, base_inputs: Inputs) -> None:
    rules = Rule(operator="norm"), Rule(operator="input", path="track_reference", precision="int16")
    quantised = QuantizedMotr(float_model, Scheme().with_rules(*rules))
    tensors = quantised_tensors(quantised)
    norms = [t for t in tensors if t.operator == "norm"]
    assert len(norms) == 2 * config.model.encoder_layers + 4 * config.model.decoder_layers + 3
    assert {t.bits for t in norms} == {8}
    assert {t.tensor for t in tensors if t.operator == "input" and t.bits == 16} == {"track_reference"}
    quantised.base(*base_inputs)
    quantised.mode("evaluate")
    assert torch.isfinite(quantised.base(*base_inputs)[2]).all()


def test_int16_that_a_product_reads_is_refused(float_model: Motr) -> None:
    norm = Rule(operator="norm", path="decoder.0.norm4", precision="int16")
    with pytest.raises(UserError, match=r"is asked for in int16, but \S+ multiplies it \(rule 'high precision'\)"):
        QuantizedMotr(float_model, Scheme().with_rules(norm))
    in_float = [Rule(operator="*", path=path, precision="float") for path in ("decoder.*", "class_heads.*", "*")]
    QuantizedMotr(float_model, Scheme().with_rules(norm, *in_float))
