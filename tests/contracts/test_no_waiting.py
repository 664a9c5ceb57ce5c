"""No step of a training makes the host wait for the device, on which a GPU would lie idle meanwhile.

The meta device stands in for a GPU: it computes shapes alone, so that no value of it can be read, and what does wait is
told apart from reading a value that is on the CPU anyway.
"""

import pytest
import torch
from torch.optim import SGD
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from splitleak.attacker.base import Run, Shapes
from splitleak.attacker.reconstruction.decoder import DecoderConfig, DecoderTraining
from splitleak.attacker.reconstruction.gan import Game, GanConfig
from splitleak.attacker.training.critic import PatchCritic
from splitleak.attacker.training.fitting import _Average
from splitleak.defenses import DEFENSES
from splitleak.defenses.base import EpochEnd
from splitleak.defenses.training import AugmentConfig, assemble, augmented, training_step
from splitleak.testing import DefenseSubject
from splitleak.training.modules import at_once
from tests.contracts.test_every_defense import EVERY, SETTINGS, behind

SHAPES = Shapes((8, 4, 4), (1, 16, 16), 100)
CPU, DEVICE = torch.device("cpu"), torch.device("meta")
READING = {"_local_scalar_dense", "is_nonzero", "nonzero", "masked_select", "unique", "_unique2", "bincount", "equal"}
COPYING = {"_to_copy", "copy_"}
INDEXING = {"index", "index_put_", "index_put", "_index_put_impl_", "_unsafe_index"}


class Waits(TorchDispatchMode):
    """Notes each operation for which the host waits for the device, or the device for the host."""

    def __init__(self):
        super().__init__()
        self.noted = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, function.overloadpacket.__name__
        if name == "exponential_":  # has no form on the meta device that takes a generator
            return args[0]
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        devices = {each.device for each in given}
        if DEVICE in devices and name in READING:
            self.noted.append(name)
        if name in INDEXING and DEVICE in devices:
            places = [each for each in tree_leaves(args[1]) if isinstance(each, torch.Tensor)]
            self.noted += [name for each in places if each.dtype == torch.bool or each.device != DEVICE]
        if name == "_to_copy":
            devices.add(kwargs.get("device") or args[0].device)
        if name in COPYING and {CPU, DEVICE} <= devices and not kwargs.get("non_blocking"):
            self.noted.append(name)
        return function(*args, **kwargs)


class Copies(TorchFunctionMode):
    """Notes each tensor that is made on the device of numbers; no dispatch mode sees it."""

    def __init__(self, noted):
        super().__init__()
        self.noted = noted

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function in (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor) and result.device == DEVICE:
            self.noted.append(function.__name__)
        return result


def waits(step):
    """The operations of a step that wait."""
    mode = Waits()
    with mode, Copies(mode.noted):
        try:
            step()
        except (NotImplementedError, RuntimeError, ValueError) as error:
            mode.noted.append(str(error))
    return mode.noted


@pytest.mark.parametrize(
    "step",
    [
        lambda device, host: device.sum().item(),
        lambda device, host: bool(device.any()),
        lambda device, host: float(device.mean()),
        lambda device, host: device.nonzero(),
        lambda device, host: device.unique(),
        lambda device, host: device[device > 0],
        lambda device, host: device.masked_select(device > 0),
        lambda device, host: torch.bincount(device.long()),
        lambda device, host: device.tolist(),
        lambda device, host: device.cpu(),
        lambda device, host: host.to(DEVICE),
        lambda device, host: torch.tensor([1, 2], device=DEVICE),
        lambda device, host: device.new_tensor([1, 2]),
        lambda device, host: device.copy_(host),
        lambda device, host: device[host.long()],
        lambda device, host: device.index_put_((device > 0,), device.sum()),
    ],
)
def test_what_waits_is_noticed(step):
    assert waits(lambda: step(torch.zeros(3, device=DEVICE), torch.zeros(3)))


def test_what_is_on_the_cpu_is_read_without_waiting():
    assert waits(lambda: float(torch.ones(3).sum())) == []
    assert waits(lambda: torch.zeros(3, device=DEVICE) * float(torch.ones(()))) == []


def step_of(config):
    """A step of a target's training on the device, in its second epoch, after one on the CPU."""
    model, stack = assemble(config, "builtin")
    stack.seed(0, CPU)
    model.train(), stack.train()
    optimizer = SGD([*model.parameters(), *stack.task_parameters()], lr=0.1, momentum=0.9)
    labels = torch.arange(60) % config.model.classes
    features = torch.rand(60, *model.feature_shape, generator=torch.Generator().manual_seed(0))
    stack.on_epoch(EpochEnd(0, 10, lambda: (features, labels)))
    images = torch.rand(12, *model.image_shape, generator=torch.Generator().manual_seed(1))

    def step(device):
        training_step(model, stack, optimizer, images.to(device), labels[:12].to(device), epoch=1, rate=0.01)

    step(CPU)
    optimizer.state.clear()
    model.to(DEVICE), stack.to(DEVICE)
    images, labels = images.to(DEVICE), labels.to(DEVICE)
    return lambda: step(DEVICE)


@EVERY
def test_no_step_of_a_defense_waits(name):
    assert waits(step_of(DefenseSubject(DEFENSES[name], SETTINGS.get(name, {}), behind(name)).target())) == []


def test_nor_does_one_of_the_reference_form_of_cem():
    config = DefenseSubject(DEFENSES["cem"], {"mode": "reference"}, behind("cem")).target()
    assert waits(step_of(config)) == []


@pytest.mark.parametrize("settings", [{"ssim_threshold": 1}, {"measure": "mse"}])
def test_nor_does_an_adversary_of_which_there_is_nothing_to_fear(settings):
    config = DefenseSubject(DEFENSES["ressfl"], {**SETTINGS["ressfl"], **settings}).target()
    assert waits(step_of(config)) == []


def test_augmentation_does_not_wait_and_an_epochs_order_is_copied_once():
    images, draw = torch.zeros(4, 3, 16, 16, dtype=torch.uint8, device=DEVICE), torch.Generator()
    config = AugmentConfig(crop_padding=2, flip=True, rotation_degrees=10)
    order = [torch.tensor([0, 1]), torch.tensor([2]), torch.tensor([3, 0])]

    def batches():
        for rows in at_once(order, DEVICE):
            augmented(images[rows].float() / 255, config, draw)

    assert waits(batches) == ["_to_copy"]


def run():
    return Run(seed=0, device=CPU)


def descended(network, descend, optimizers, modules):
    """A step of an attack's training on the device, with the average of its weights, after one on the CPU."""
    mean = _Average(network, 0.9)
    features, images = torch.rand(4, 8, 4, 4), torch.rand(4, 1, 16, 16)

    def step(features, images):
        descend(features, images, 0.9)
        mean.update_parameters(network)

    for _ in range(2):
        step(features, images)
    for optimizer in optimizers:
        optimizer.state.clear()
    for module in (*modules, mean.module):
        module.to(DEVICE)
    features, images = features.to(DEVICE), images.to(DEVICE)
    return waits(lambda: step(features, images))


@pytest.mark.parametrize("network", ["sub-pixel", "res-norm"])
def test_no_step_of_the_decoder_waits(network):
    config = DecoderConfig(network=network, blocks=1, channels=4)
    training = DecoderTraining(config, SHAPES, run())
    assert descended(training.decoder, training.descend, [training.optimizer], [training.decoder]) == []


@pytest.mark.parametrize("critic_steps", [1, 2])
def test_no_step_of_the_gan_attack_waits(critic_steps):
    config = GanConfig(network="res-norm", blocks=1, channels=4, critic_width=4, critic_steps=critic_steps)
    network, critic = config.build(SHAPES), PatchCritic((1, 16, 16), 4)
    game = Game(config, network, critic, torch.Generator().manual_seed(0))
    assert descended(network, game.descend, [game.playing, game.critical], [network, critic]) == []
