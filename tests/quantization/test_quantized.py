"""The model on grids: the float model while off, close to it while on, the same after a round trip."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from motrlab.config import Config, mot17
from motrlab.config.scheme import Rule, Scheme
from motrlab.errors import UserError
from motrlab.model.base import BaseOutput
from motrlab.model.motr import Motr, build_motr, folded_copy
from motrlab.quantization.declare import declare
from motrlab.quantization.quantized import QuantizedMotr, num_quantisers
from motrlab.quantization.tensors import Value

Inputs = tuple[Tensor, ...]


def flat(output: BaseOutput) -> list[Tensor]:
    return [*output[0], *output[1], output[2]]


def tokens_of(inputs: Inputs) -> Inputs:
    """The QIM's inputs of the same tracks."""
    query, mask = inputs[1], inputs[2]
    tokens = query.reshape(*query.shape[:2], 1, -1)
    return tokens, tokens.flip(1), mask


@torch.no_grad()
def test_off_equals_the_float_model(quantised: QuantizedMotr, float_model: Motr, base_inputs: Inputs) -> None:
    quantised.mode("float")
    found, expected = flat(quantised.graphs.base(*base_inputs)), flat(float_model.base(*base_inputs))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    inputs = tokens_of(base_inputs)
    torch.testing.assert_close(quantised.graphs.qim(*inputs), float_model.qim(*inputs), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_on_is_close_but_not_equal(quantised: QuantizedMotr, float_model: Motr, base_inputs: Inputs) -> None:
    found, expected = quantised.graphs.base(*base_inputs)[2], float_model.base(*base_inputs)[2]
    error = float((found - expected).norm() / expected.norm())
    assert 1e-4 < error < 0.3


@torch.no_grad()
def test_every_tensor_is_an_integer_on_its_grid(quantised: QuantizedMotr, base_inputs: Inputs) -> None:
    net = quantised.net
    for graph, run, inputs in (
        ("base", quantised.graphs.base, base_inputs),
        ("qim", quantised.graphs.qim, tokens_of(base_inputs)),
    ):
        net.record = {}
        run(*inputs)
        seen = dict(net.record)
        net.record = None
        for (owner, name), spec in quantised.specs.items():
            if owner == graph and spec.operator != "head":
                steps = seen[name].double() / net.scale(spec)
                assert float((steps - steps.round()).abs().max()) < 1e-3, name
                assert spec.low <= float(steps.min().round()), name
                assert float(steps.max().round()) <= spec.high, name


@torch.no_grad()
def test_batch_of_two_equals_two_singles_to_the_bit(quantised: QuantizedMotr, base_inputs: Inputs) -> None:
    both = flat(quantised.graphs.base(*base_inputs))
    for index in range(2):
        alone = flat(quantised.graphs.base(*(x[index : index + 1] for x in base_inputs)))
        for found, expected in zip(alone, both, strict=True):
            assert torch.equal(found[0], expected[index])


@torch.no_grad()
def test_garbage_in_padding_changes_nothing(quantised: QuantizedMotr, base_inputs: Inputs) -> None:
    image, query, mask, reference = base_inputs
    slots = mask.reshape(2, 1, *query.shape[2:]) == 1
    garbage = torch.where(slots, query, query.new_tensor(37.0))
    boxes = torch.where(slots, reference, reference.new_tensor(0.9))
    clean, dirty = quantised.graphs.base(*base_inputs), quantised.graphs.base(image, garbage, mask, boxes)
    detect = quantised.config.num_detect
    real = torch.cat((torch.ones(2, detect, dtype=torch.bool), mask.flatten(1) == 1), 1)
    for found, expected in zip(flat(dirty), flat(clean), strict=True):
        keep = real[:, None].expand(-1, found.shape[1], -1)
        assert torch.equal(found.flatten(2)[keep], expected.flatten(2)[keep])
    tokens = query.reshape(2, query.shape[1], 1, -1)
    dirty_tokens = garbage.reshape(tokens.shape)
    live, qim = (mask == 1).expand_as(tokens), quantised.graphs.qim
    assert torch.equal(qim(dirty_tokens, dirty_tokens, mask)[live], qim(tokens, tokens, mask)[live])


@torch.no_grad()
@pytest.mark.parametrize("live", [0.0, 1.0], ids=["all empty", "all live"])
def test_no_nan_whatever_the_mask(quantised: QuantizedMotr, base_inputs: Inputs, live: float) -> None:
    image, query, mask, reference = base_inputs
    for output in flat(quantised.graphs.base(image, query, torch.full_like(mask, live), reference)):
        assert output.isfinite().all()


def test_the_state_passes_between_the_graphs_on_one_grid(quantised: QuantizedMotr) -> None:
    group = {key: spec.group for key, spec in quantised.specs.items()}
    last = quantised.config.decoder_layers - 1
    assert group["base", "track_query"] == group["qim", "norm3"] == group["base", "detect.query"]
    assert group["base", f"decoder.{last}.norm4"] == group["qim", "embedding"]
    assert group["qim", "query"] == group["qim", "branch2"] != group["base", "track_query"]  # that one reaches further


def test_a_residual_and_its_branch_share_a_grid(quantised: QuantizedMotr) -> None:
    group = {key: spec.group for key, spec in quantised.specs.items()}
    for first, second in (
        ("encoder.0.norm1", "encoder.0.ffn.project"),
        ("input_projection", "encoder.0.attention.out"),
        ("decoder.0.norm3", "decoder.0.ffn.project"),
        ("decoder.0.self_attention.query", "decoder.0.self_attention.key"),
    ):
        assert group["base", first] == group["base", second]
    assert group["base", "encoder.0.norm1"] != group["base", "encoder.0.norm2"]


def test_what_stands_behind_a_relu_is_unsigned(quantised: QuantizedMotr) -> None:
    unsigned = {name for (_, name), spec in quantised.specs.items() if spec.unsigned}
    assert {"backbone.stem", "encoder.0.ffn.expand", "position.0", "branch1", "box_heads.0.hidden2"} <= unsigned
    assert not unsigned & {"encoder.0.norm1", "encoder.0.ffn.project", "backbone.lateral", "image"}


def test_relu6_ends_the_range_at_six(config: Config, base_inputs: Inputs) -> None:
    model = folded_copy(build_motr(replace(config.model, activation="relu6"), seed=3))
    with torch.no_grad():
        model.base.backbone.stem[0].weight.mul_(100)
        quantised = QuantizedMotr(model)
        quantised.graphs.base(*base_inputs)
        quantised.advance()
    spec = quantised.specs["base", "backbone.stem"]
    assert spec.ceiling == 6.0
    assert float(quantised.ranges.scale[spec.group]) == pytest.approx(6 / 255)
    with torch.no_grad():  # also where the integers themselves are observed, before they saturate
        quantised.mode("train")
        quantised.graphs.base(*base_inputs)
        quantised.advance()
    assert float(quantised.ranges.scale[spec.group]) == pytest.approx(6 / 255)


@torch.no_grad()
@pytest.mark.parametrize(("scale", "steps"), [(0.1, 60), (0.02, 255), (4.0, 2)])
def test_relu6_clips_at_six_on_a_fixed_grid(config: Config, base_inputs: Inputs, scale: float, steps: int) -> None:
    """A grid that reaches further ends there."""
    model = folded_copy(build_motr(replace(config.model, activation="relu6"), seed=3))
    model.base.backbone.stem[0].weight.mul_(100)
    quantised = QuantizedMotr(model, Scheme().with_rules(Rule(path="backbone.stem", scale=scale)))
    quantised.graphs.base(*base_inputs)
    quantised.ranges.finish()
    quantised.mode("evaluate")
    quantised.net.record = {}
    quantised.graphs.base(*base_inputs)
    assert float(quantised.net.record["backbone.stem"].max()) == pytest.approx(steps * scale)
    assert quantised.specs["base", "backbone.stem"].high == steps
    with pytest.raises(UserError, match=r"backbone\.stem ends at 6; give it a scale below that, not 13"):
        QuantizedMotr(model, Scheme().with_rules(Rule(path="backbone.stem", scale=13.0)))


@torch.no_grad()
def test_signed_only_and_seven_bits(config: Config, float_model: Motr, base_inputs: Inputs) -> None:
    """For chips that know symmetric int8 only, and for kernels that add pairs of products in 16 bits."""
    scheme = replace(Scheme(), signed_only=True, weight_bits=7)
    quantised = QuantizedMotr(float_model, scheme)
    quantised.graphs.base(*base_inputs)
    quantised.graphs.qim(*tokens_of(base_inputs))
    quantised.ranges.finish()
    quantised.mode("evaluate")
    output = quantised.graphs.base(*base_inputs)[2]
    assert {spec.high for spec in quantised.specs.values()} == {127}
    spec = quantised.specs["base", "encoder.0.ffn.expand"]
    layer = quantised.model.base.encoder[0].ffn.expand
    weight = quantised.net.layer(Value(base_inputs[1], float(quantised.ranges.scale[spec.group])), spec, layer).weight
    assert float(weight.abs().max()) == 63
    expected = float_model.base(*base_inputs)[2]
    assert float((output - expected).norm() / expected.norm()) < 0.3


def test_a_dead_channel_keeps_its_bias_within_the_accumulator(config: Config, base_inputs: Inputs) -> None:
    model = folded_copy(build_motr(config.model, seed=3))
    layer = model.base.encoder[0].ffn.expand
    with torch.no_grad():
        layer.weight[0], layer.bias[0] = 1e-12, 3.0
        quantised = QuantizedMotr(model)
        quantised.graphs.base(*base_inputs)
        quantised.graphs.qim(*tokens_of(base_inputs))
        quantised.ranges.finish()
        quantised.mode("evaluate")
        quantised.net.record = {}
        quantised.graphs.base(*base_inputs)
    value = quantised.net.record["encoder.0.ffn.expand"][:, 0]
    scale = quantised.net.scale(quantised.specs["base", "encoder.0.ffn.expand"])
    torch.testing.assert_close(value, torch.full_like(value, 3.0), rtol=0, atol=scale)


def test_weight_scales_follow_the_weights(quantised: QuantizedMotr, base_inputs: Inputs) -> None:
    """Nothing is stored that could lag behind."""
    spec, layer = quantised.specs["base", "encoder.0.ffn.expand"], quantised.model.base.encoder[0].ffn.expand
    with torch.no_grad():
        layer.weight[3] *= 2
        quantised.mode("evaluate")
        integers = quantised.net.layer(Value(base_inputs[1], 0.1), spec, layer)
    assert float(integers.weight[3].abs().max()) == 127
    assert float(integers.scale[3]) == pytest.approx(float(layer.weight[3].detach().abs().max()) / 127)


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
        found, expected = flat(loaded.graphs.base(*base_inputs)), flat(quantised.graphs.base(*base_inputs))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    other = replace(config, model=replace(config.model, decoder_layers=1))
    with pytest.raises(UserError, match="another preset"):
        QuantizedMotr.load(other, path)
    with pytest.raises(UserError, match="no checkpoint"):
        QuantizedMotr.load(config, tmp_path / "none.safetensors")


def test_detect_queries_are_on_their_grid_and_have_gradients(quantised: QuantizedMotr) -> None:
    quantised.mode("evaluate")
    query = quantised.graphs.detect_query
    scale = quantised.net.scale(quantised.specs["base", "detect.query"])
    steps = query.detach() / scale
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-3)
    query.sum().backward()
    parameter = quantised.model.base.detect.query
    assert parameter.grad is not None
    assert (parameter.grad > 0.9).all()
    parameter.grad = None


@torch.no_grad()
def test_a_float_rule_leaves_a_tensor_alone(float_model: Motr, base_inputs: Inputs) -> None:
    scheme = Scheme().with_rules(Rule(graph="base", path="backbone.*", precision="float"))
    quantised = QuantizedMotr(float_model, scheme)
    quantised.graphs.base(*base_inputs)
    quantised.ranges.finish()
    quantised.mode("evaluate")
    quantised.net.record = {}
    assert torch.isfinite(quantised.graphs.base(*base_inputs)[2]).all()
    record = dict(quantised.net.record)
    quantised.mode("float")
    quantised.graphs.base(*base_inputs)
    stem = "backbone.stages.0.0.layers.0"
    torch.testing.assert_close(record[stem], quantised.net.record[stem], rtol=1e-2, atol=0.05)
    assert not torch.equal(record["input_projection"], quantised.net.record["input_projection"])


@torch.no_grad()
def test_int16_is_finer(config: Config, float_model: Motr, base_inputs: Inputs) -> None:
    """For analysis: what int16 would buy."""
    errors = []
    for rules in ((), (Rule(operator="norm", precision="int16"), Rule(operator="linear", precision="int16"),
                       Rule(operator="input", path="track_query", precision="int16"),
                       Rule(operator="input", path="detect.*", precision="int16"),
                       Rule(graph="qim", operator="input", precision="int16"))):  # fmt: skip
        quantised = QuantizedMotr(copy.deepcopy(float_model), Scheme().with_rules(*rules))
        quantised.graphs.base(*base_inputs)
        quantised.ranges.finish()
        quantised.mode("evaluate")
        expected = float_model.base(*base_inputs)[2]
        errors.append(float((quantised.graphs.base(*base_inputs)[2] - expected).norm()))
    assert errors[1] < 0.8 * errors[0]


def test_one_grid_of_two_precisions_is_refused(float_model: Motr) -> None:
    norm = Rule(name="finer", operator="norm", path="decoder.0.norm3", precision="int16")
    with pytest.raises(UserError, match=r"share one grid; give them one precision") as error:
        QuantizedMotr(float_model, Scheme().with_rules(norm))
    assert "'finer'" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_float_tensor_first_does_not_hide_two_precisions(float_model: Motr) -> None:
    first = Rule(graph="base", path="track_query", precision="float")
    finer = Rule(name="finer", path="decoder.0.norm1", precision="int16")
    with pytest.raises(UserError, match=r"norm1 \('finer': int16.* share one grid"):
        QuantizedMotr(float_model, Scheme().with_rules(first, finer))


def test_a_rule_without_a_part_is_for_both(float_model: Motr, recwarn: pytest.WarningsRecorder) -> None:
    rule = Rule(path="decoder.0.self_attention.out", per_channel=False)
    specs = QuantizedMotr(float_model, Scheme().with_rules(rule)).specs
    parts = [specs["base", f"{rule.path}/{part}"] for part in ("detect", "track")]
    assert [spec.rule for spec in parts] == [rule, rule]
    assert not [w for w in recwarn if "fits no tensor" in str(w.message)]


def test_a_rule_may_name_a_part(float_model: Motr, recwarn: pytest.WarningsRecorder) -> None:
    path = "decoder.0.self_attention.out"
    rules = (Rule(path=f"{path}/detect", precision="int16"), Rule(path="detect.residual", precision="int16"))
    specs = QuantizedMotr(float_model, Scheme().with_rules(*rules)).specs
    assert [specs["base", f"{path}/{part}"].bits for part in ("detect", "track")] == [16, 8]
    assert not [w for w in recwarn if "fits no tensor" in str(w.message)]


def test_two_parts_have_one_weight(float_model: Motr) -> None:
    rule = Rule(path="decoder.0.self_attention.out/track", per_channel=False)
    with pytest.raises(UserError, match="track has the weights of the other part; set per_channel by the path without"):
        QuantizedMotr(float_model, Scheme().with_rules(rule))


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (Rule(path="decoder.0.norm1", scale=0.1), "scale observed.*scale 0.1.* share one grid"),
        (Rule(name="mine", path="image", scale=0.1), "'mine': base image has the scale 0.0078125, no other"),
    ],
)
def test_a_scale_that_cannot_be_fixed_is_refused(float_model: Motr, rule: Rule, message: str) -> None:
    with pytest.raises(UserError, match=message):
        QuantizedMotr(float_model, Scheme().with_rules(rule))


def test_a_sum_on_a_grid_that_is_too_fine_is_named(float_model: Motr, base_inputs: Inputs) -> None:
    specs = QuantizedMotr(float_model).specs.values()
    (name, *_) = sorted(spec.name for spec in specs if (spec.graph, spec.operator) == ("base", "sum"))
    quantised = QuantizedMotr(float_model, Scheme().with_rules(Rule(name="fine", path=name, scale=1e-6)))
    with torch.no_grad():
        quantised.graphs.base(*base_inputs)
        quantised.ranges.finish()
    quantised.mode("evaluate")
    with pytest.raises(UserError, match=rf"{name}: .* times finer .*'fine'") as error, torch.no_grad():
        quantised.graphs.base(*base_inputs)
    assert "\n" not in str(error.value)


@torch.no_grad()
def test_a_scale_that_leaves_the_weights_no_steps_is_named(config: Config, base_inputs: Inputs) -> None:
    """Its bias would be too many steps of the accumulator, and is kept at the cost of the weights."""
    model = folded_copy(build_motr(config.model, seed=3))
    model.base.encoder[0].ffn.project.bias.fill_(0.5)
    for scale in (0.05, 1e-6):
        rule = Rule(name="tiny", path="encoder.0.ffn.expand", scale=scale)
        quantised = QuantizedMotr(copy.deepcopy(model), Scheme().with_rules(rule))
        quantised.graphs.base(*base_inputs)
        quantised.ranges.finish()
        quantised.mode("evaluate")
        if scale == 0.05:
            quantised.graphs.base(*base_inputs)
            continue
        with pytest.raises(UserError, match=r"ffn\.project: its bias .*'tiny' a scale above 1e-06") as error:
            quantised.graphs.base(*base_inputs)
        assert "\n" not in str(error.value)


@torch.no_grad()
def test_a_product_that_can_pass_32_bits_is_named(quantised: QuantizedMotr) -> None:
    layer = torch.nn.Linear(70_000, 1)
    layer.weight.fill_(0.1)
    spec, x = quantised.specs["base", "encoder.0.ffn.expand"], Value(torch.zeros(1), 0.1)
    with pytest.raises(UserError, match=r"base encoder\.0\.ffn\.expand: the sum of 70000 .* fewer inputs") as error:
        quantised.net.layer(x, spec, layer)
    assert "\n" not in str(error.value)
    layer.weight[:, ::2] = 0
    assert len(quantised.net.layer(x, spec, layer).parts) > 60


def test_a_fixed_scale_is_kept(quantised: QuantizedMotr, float_model: Motr, base_inputs: Inputs) -> None:
    scheme = Scheme().with_rules(Rule(path="decoder.0.ffn.expand", scale=0.25))
    other = QuantizedMotr(float_model, scheme)
    with torch.no_grad():
        other.graphs.base(*base_inputs)
        other.ranges.finish()
    spec = other.specs["base", "decoder.0.ffn.expand"]
    assert float(other.ranges.scale[spec.group].detach()) == 0.25


def test_a_rule_that_fits_nothing_is_named(float_model: Motr) -> None:
    scheme = Scheme().with_rules(Rule(name="spelt wrongly", path="bakbone.*", precision="float"))
    with pytest.warns(UserWarning, match="'spelt wrongly' fits no tensor"):
        QuantizedMotr(float_model, scheme)


def test_the_default_scheme_leaves_nothing_in_float(float_model: Motr, recwarn: pytest.WarningsRecorder) -> None:
    quantised = QuantizedMotr(float_model)
    assert not [w for w in recwarn if "fits no tensor" in str(w.message)]
    assert all(spec.rule.precision == "int8" for spec in quantised.specs.values())
    products = sum(spec.operator in ("conv", "linear", "head") for spec in quantised.specs.values())
    assert num_quantisers(quantised) == {
        "activations": sum(spec.operator != "head" for spec in quantised.specs.values()), "weights": products,
    }  # fmt: skip


def test_the_reference_can_be_declared() -> None:
    """`mot17`, whose boxes are logits."""
    model = folded_copy(Motr(mot17().model).eval())
    specs = declare(model, Scheme())
    assert sum(spec.operator == "norm" for spec in specs.values()) == 2 * 6 + 4 * 6 + 3 + 1  # one in two parts
    assert len({spec.group for spec in specs.values()}) < len(specs)
