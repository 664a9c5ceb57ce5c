import json

import pytest
import torch
from torch import nn

from splitleak.models.counting import COUNTING_RULE, COUNTING_RULES, count_macs
from splitleak.models.decoder import ResidualBlock, ResNormDecoder
from splitleak.models.split import ModelConfig, build


def published(**changes):
    """A model with the bottleneck of the published tables, eight channels and a sigmoid, as shapes only."""
    with torch.device("meta"):
        model = build(ModelConfig(**{"channels": 3, "size": 32, "classes": 10, **changes}))
        channels = model.feature_shape[0]
        model.encoder = nn.Sequential(model.encoder, nn.Conv2d(channels, 8, 3, padding=1), nn.Sigmoid())
        model.head = nn.Sequential(nn.Conv2d(8, channels, 3, padding=1), model.head)
    return model


def test_cifar10_at_cut_4_counts_as_published():
    model = published()
    encoder, cloud = count_macs(model.encoder, (3, 32, 32)), count_macs(model.head, model.feature_shape)
    assert model.feature_shape == (8, 8, 8)
    assert (encoder.parameters, encoder.macs) == (85_256, 21_233_664)
    assert (cloud.parameters, cloud.macs) == (9_689_738, 133_239_808)
    whole = count_macs(model, (3, 32, 32))
    assert (whole.parameters, whole.macs) == (9_774_994, 21_233_664 + 133_239_808)


def test_cut_3_moves_the_pool_and_no_parameter():
    model = published(cut=3)
    encoder = count_macs(model.encoder, (3, 32, 32))
    assert model.feature_shape == (8, 16, 16)
    assert (encoder.parameters, encoder.macs) == (85_256, 23_003_136)
    assert count_macs(model, (3, 32, 32)).parameters == 9_774_994


def test_cifar100_counts_as_published():
    model = published(classes=100)
    assert count_macs(model.head, model.feature_shape).parameters == 9_735_908
    assert count_macs(model, (3, 32, 32)).parameters == 9_821_164


def test_facescrub_counts_as_published():
    model = published(size=48, classes=530)
    encoder, cloud = count_macs(model.encoder, (3, 48, 48)), count_macs(model.head, model.feature_shape)
    assert model.feature_shape == (8, 12, 12)
    assert (encoder.parameters, round(encoder.macs, -3)) == (85_256, 47_776_000)
    assert (cloud.parameters, round(cloud.macs, -3)) == (9_956_498, 299_394_000)
    assert count_macs(model, (3, 48, 48)).parameters == 10_041_754


def test_resnet20_on_tinyimagenet_counts_as_published():
    model = published(architecture="resnet20", size=64, classes=200)
    encoder, cloud = count_macs(model.encoder, (3, 64, 64)), count_macs(model.head, model.feature_shape)
    assert model.feature_shape == (8, 16, 16)
    assert (encoder.parameters, round(encoder.macs, -3)) == (112_472, 72_155_000)
    assert (cloud.parameters, round(cloud.macs, -3)) == (990_984, 90_858_000)
    assert count_macs(model, (3, 64, 64)).parameters == 1_103_456


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (4, 8, 8), 6 * 4 * 4 * (2 * 9)),
        (nn.Conv1d(2, 3, 5), (2, 10), 3 * 6 * (2 * 5)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1), (4, 8, 8), 4 * 8 * 8 * (6 * 9)),
        (nn.Linear(7, 5), (7,), 35),
        (nn.BatchNorm2d(4), (4, 8, 8), 0),
    ],
)
def test_each_kind_of_layer_is_counted_by_the_rule(layer, shape, macs):
    counted = count_macs(layer, shape)
    assert counted.macs == macs
    assert counted.parameters == sum(p.numel() for p in layer.parameters())
    assert [row.kind for row in counted.rows] == [type(layer).__name__]


def test_rows_name_layers_in_order_of_call_and_add_up():
    model = build(ModelConfig(architecture="cnn", channels=1, size=28, classes=10))
    counted = count_macs(model, (1, 28, 28))
    assert counted.rows[0].name == "encoder.normalise"
    assert counted.rows[1].name == "encoder.position1.0"
    assert counted.rows[1].output_shape == (16, 28, 28)
    assert counted.rows[-1].output_shape == (10,)
    assert sum(row.parameters for row in counted.rows) == counted.parameters
    assert json.loads(json.dumps(counted.document()))["rows"][1]["macs"] == 16 * 28 * 28 * 9


def test_a_layer_called_twice_is_computed_twice_but_stored_once():
    layer = nn.Linear(3, 3)
    counted = count_macs(nn.Sequential(layer, nn.ReLU(), layer), (3,))
    assert [row.parameters for row in counted.rows] == [12, 0, 0]
    assert (counted.parameters, counted.macs) == (12, 18)


def test_counting_leaves_no_hook_behind():
    model = build(ModelConfig(architecture="cnn", channels=1, size=28, classes=10))
    count_macs(model, (1, 28, 28))
    assert not any(module._forward_hooks for module in model.modules())


def test_by_ptflops_rule_the_published_models_count_as_published():
    model = published()
    assert count_macs(model.encoder, (3, 32, 32), "ptflops").macs == 21_922_304
    assert count_macs(model.head, (8, 8, 8), "ptflops").macs == 133_570_570
    assert count_macs(model.encoder, (3, 32, 32), "ptflops").parameters == 85_256
    assert round(count_macs(model, (3, 32, 32), "ptflops").macs, -3) == 155_493_000


def test_the_decoder_whose_blocks_call_relu_as_a_function_counts_as_published():
    with torch.device("meta"):
        decoder = ResNormDecoder((8, 8, 8), (3, 32, 32))
    assert count_macs(decoder, (8, 8, 8)).parameters == 711_539
    assert round(count_macs(decoder, (8, 8, 8)).macs, -3) == 54_281_000
    assert round(count_macs(decoder, (8, 8, 8), "ptflops", functional=(ResidualBlock,)).macs, -3) == 55_275_000
    assert count_macs(decoder, (8, 8, 8), "ptflops").macs == 55_275_008 + 138_752  # the ReLUs inside the blocks


@pytest.mark.parametrize(
    ("wide", "wider", "parameters", "macs"), [(64, 128, 93_224, 30_114), (60, 121, 83_723, 27_304)]
)
def test_patrols_encoder_counts_as_published_before_and_after_pruning(wide, wider, parameters, macs):
    def block(channels, out):
        return nn.Conv2d(channels, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU()

    layers = (*block(3, 16), *block(16, wide), nn.MaxPool2d(2), *block(wide, wider), nn.MaxPool2d(2))
    encoder = nn.Sequential(*layers, nn.Conv2d(wider, 8, 3, padding=1), nn.Sigmoid())
    counted = count_macs(encoder, (3, 32, 32), "ptflops")
    assert (counted.parameters, round(counted.macs / 1000)) == (parameters, macs)


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (nn.Conv2d(4, 6, 3, padding=1, bias=False), (4, 8, 8), 6 * 64 * 36),
        (nn.Conv2d(4, 6, 3, padding=1), (4, 8, 8), 6 * 64 * 37),
        (nn.Linear(7, 5), (7,), 40),
        (nn.BatchNorm2d(4), (4, 8, 8), 512),
        (nn.BatchNorm2d(4, affine=False), (4, 8, 8), 256),
        (nn.ReLU(), (4, 8, 8), 512),
        (nn.MaxPool2d(2), (4, 8, 8), 512),
        (nn.AdaptiveAvgPool2d(1), (4, 8, 8), 512),
        (nn.AdaptiveAvgPool2d(1), (4, 1, 1), 0),
        (nn.Sigmoid(), (4, 8, 8), 0),
    ],
)
def test_each_kind_of_layer_is_counted_by_ptflops_rule(layer, shape, macs):
    assert count_macs(layer, shape, "ptflops").macs == macs


def test_the_rules_are_named_and_ours_is_the_default():
    assert set(COUNTING_RULES) == {"macs", "ptflops"}
    assert COUNTING_RULES["macs"] == COUNTING_RULE
