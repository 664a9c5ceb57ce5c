import shutil

import pytest
import torch
from torch import nn

from splitleak.datasets import load
from splitleak.datasets.images import Dataset
from splitleak.datasets.splits import SplitConfig, split
from splitleak.defenses.artifact import load_cloud, load_edge, read_record, save
from splitleak.defenses.classes.bido import BiDO
from splitleak.defenses.classes.transfer import FrozenLayer, Transfer, TransferConfig, weights_digest
from splitleak.defenses.training import TargetConfig, train
from splitleak.models.split import ModelConfig, build

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def halves():
    """The built-in images in two halves by their classes: the target's, and a public one."""
    counts = SplitConfig(train=300, public=400, victims=10, test=100, classes=5)
    private = split(load("builtin").fitted(16, 1), counts)
    return private, split(Dataset("generic", private.generic, None), SplitConfig(public=1, victims=1))


@pytest.fixture(scope="module")
def pretrained(halves, small_target, tmp_path_factory):
    folder = tmp_path_factory.mktemp("transfer") / "public"
    save(folder, "public", train(of_five(small_target("bottleneck", epochs=2)), halves[1], device=CPU))
    return folder


def of_five(config, **model):
    return TargetConfig.parse(
        {**config.document(), "model": {**config.document()["model"], "classes": 5, **model}}, source="test"
    )


def count(*modules):
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def state(folder, prefix):
    found = load_edge(folder / "edge", CPU).encoder.state_dict() | load_cloud(folder / "cloud", CPU).head.state_dict()
    return {key.split(prefix)[1]: value for key, value in found.items() if prefix in key}


@pytest.mark.parametrize("frozen", [0, 1, 3])
def test_frozen_layers_keep_the_public_weights_and_statistics_and_the_others_learn(
    halves, small_target, pretrained, tmp_path, frozen
):
    document = {"name": "transfer", "pretrained": str(pretrained), "frozen": frozen}
    save(tmp_path / "a", "a", train(of_five(small_target(document, epochs=1)), halves[0], device=CPU))
    for index in (1, 2, 3):
        before, after = (state(folder, f"position{index}.") for folder in (pretrained, tmp_path / "a"))
        assert before.keys() == after.keys()
        kept = [torch.equal(before[key], after[key]) for key in before]
        assert kept == [index <= frozen] * len(before)
    for before, after in zip(*(state(f, "normalise.").values() for f in (pretrained, tmp_path / "a")), strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize(
    ("frozen", "trainable"),
    [
        (0, (9 + 1 + 2) * 8 + (72 + 1 + 2) * 16 + (144 + 1 + 2) * 32 + 33 * 5),
        (1, (72 + 1 + 2) * 16 + (144 + 1 + 2) * 32 + 33 * 5),
        (2, (144 + 1 + 2) * 32 + 33 * 5),
        (3, 33 * 5),
    ],
)
def test_trainable_parameters_are_counted(halves, small_target, pretrained, frozen, trainable):
    document = {"name": "transfer", "pretrained": str(pretrained), "frozen": frozen}
    target = train(of_five(small_target(document, epochs=1)), halves[0], device=CPU)
    everything = count(target.model)
    assert target.record["defenses"]["transfer"] == {"trainable_parameters": trainable, "parameters": everything}
    assert not any(isinstance(module, FrozenLayer) for module in target.model.modules())


@pytest.mark.parametrize(
    ("convolutions", "frozen", "trainable", "printed"),
    [
        (7, 9, 15_038_440, "15.04"),
        (8, 11, 13_857_256, "13.857"),
        (9, 12, 11_496_424, "11.496"),
        (10, 13, 9_135_592, "9.136"),
        (13, 17, 2_053_096, "2.053"),
    ],
)
def test_the_trainable_parameters_of_the_published_vgg16_are_those_published(convolutions, frozen, trainable, printed):
    with torch.device("meta"):
        model = build(ModelConfig(architecture="vgg16", channels=3, size=64, classes=1000))
    defense = Transfer(TransferConfig(frozen=frozen))
    defense.prepare(model, 1000)
    still = [layer for each in model.modules() if isinstance(each, FrozenLayer) for layer in each.modules()]
    assert sum(isinstance(layer, nn.Conv2d) for layer in still) == convolutions
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in still) == convolutions
    assert sum(each.numel() for each in model.parameters() if each.requires_grad) == trainable
    defense.finish(model)
    assert defense.findings(model) == {"trainable_parameters": trainable, "parameters": 16_776_232}
    assert f"{trainable / 1e6:.{len(printed.partition('.')[2])}f}" == printed


def test_a_frozen_layer_is_in_eval_mode_whatever_the_network_is_in():
    network = nn.Sequential(FrozenLayer(nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5))), nn.BatchNorm2d(3))
    for mode in (True, False, True):
        network.train(mode)
        assert not any(module.training for module in network[0].modules())
        assert network[1].training == mode
    images = torch.rand(4, 3, 2, 2)
    torch.testing.assert_close(network[0](images), images)
    assert torch.equal(network[0].layer[0].running_mean, torch.zeros(3))


def test_the_digest_of_pretrained_weights_is_recorded_and_other_weights_are_refused(
    halves, small_target, pretrained, tmp_path
):
    public = shutil.copytree(pretrained, tmp_path / "public")
    config = of_five(small_target({"name": "transfer", "pretrained": str(public)}, epochs=1))
    save(tmp_path / "a", "a", train(config, halves[0], device=CPU))
    pinned = TargetConfig.parse(read_record(tmp_path / "a")["target"], source="a")
    assert pinned == config.pinned() == pinned.pinned()
    assert pinned.defenses[0].config["sha256"] == weights_digest(pretrained)
    assert pinned.digest != config.digest
    weights = public / "cloud" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes() + b" ")
    with pytest.raises(ValueError, match=r"transfer: expected weights \w{12} at .*, got \w{12}"):
        train(pinned, halves[0], device=CPU)
    shutil.rmtree(public)
    assert load_edge(tmp_path / "a" / "edge", CPU).name == "a"
    with pytest.raises(FileNotFoundError, match="expected a pre-trained artifact with both halves at"):
        train(config, halves[0], device=CPU)


def test_what_does_not_fit_is_refused(halves, small_target, pretrained):
    document = {"name": "transfer", "pretrained": str(pretrained)}
    with pytest.raises(ValueError, match=r"(?s)expected weights in .* that fit the target, but .*size mismatch"):
        train(of_five(small_target(document, epochs=1), width=0.25), halves[0], device=CPU)
    with pytest.raises(ValueError, match=r"expected weights of .*position10, .* in .*, got normalise, .*, position3$"):
        train(of_five(small_target(document), architecture="resnet20"), halves[0], device=CPU)
    with pytest.raises(ValueError, match="expected at most 3 frozen positions, got 4"):
        train(of_five(small_target({"name": "transfer", "frozen": 4})), halves[0], device=CPU)


def test_pre_training_on_the_targets_own_classes_is_refused(halves, small_target, tmp_path):
    save(tmp_path / "own", "own", train(of_five(small_target(epochs=1)), halves[0], device=CPU))
    config = of_five(small_target({"name": "transfer", "pretrained": str(tmp_path / "own")}))
    with pytest.raises(ValueError, match=r"trained on other classes of builtin than the target's, got "):
        train(config, halves[0], device=CPU)


def test_it_combines_with_bido_and_the_frozen_layer_stays_unchanged(halves, small_target, pretrained):
    documents = [{"name": "transfer", "pretrained": str(pretrained)}, {"name": BiDO.name}]
    for stack in (documents, documents[::-1]):
        target = train(of_five(small_target(*stack, epochs=1)), halves[0], device=CPU)
        assert target.record["history"][0]["penalty"] != 0
        own = target.model.encoder.position1.state_dict()
        assert all(torch.equal(own[key], value) for key, value in state(pretrained, "position1.").items())
