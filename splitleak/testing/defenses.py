"""What every defense keeps."""

import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.optim import SGD

from splitleak.defenses import DEFENSES
from splitleak.defenses.artifact import load_cloud, load_edge, save
from splitleak.defenses.base import Defense, EpochEnd, Head, TrainingStart
from splitleak.defenses.stack import DefenseConfig, Stack
from splitleak.defenses.training import Target, TargetConfig, TrainingConfig, assemble, train, training_step
from splitleak.models.split import ModelConfig, SplitModel
from splitleak.testing.material import CLASSES, CPU, refused, same, small_splits
from splitleak.training.fit import epochs

_FEW_CLASSES = 3
_STANDARD_ERRORS = 6


@dataclass(frozen=True)
class DefenseSubject:
    """A defense under test: its class, settings that make its effect felt, and defenses that stand before it."""

    kind: type[Defense]
    settings: Mapping[str, Any] = field(default_factory=dict)
    behind: Sequence[Mapping[str, Any]] = ()

    @contextmanager
    def listed(self) -> Iterator[None]:
        """The table of defenses has it while the block runs."""
        with DEFENSES.holding(self.kind.name, self.kind):
            yield

    def target(self, *, classes: int = _FEW_CLASSES, seed: int = 0, epochs: int = 2) -> TargetConfig:
        """A small target under it."""
        documents = (*self.behind, {"name": self.kind.name, **self.settings})
        return TargetConfig(
            model=ModelConfig(architecture="cnn", width=0.5, channels=1, size=16, classes=classes),
            defenses=tuple(DefenseConfig.model_validate(document) for document in documents),
            training=TrainingConfig(epochs=epochs, batch_size=64),
            seed=seed,
        )

    def assembled(self, seed: int = 0) -> tuple[SplitModel, Stack, Defense]:
        """An untrained network under it, the stack, and itself, all at the start of a training."""
        with self.listed():
            model, stack = assemble(self.target(seed=seed), "builtin")
        stack.seed(seed, CPU)
        stack.begin(TrainingStart(model, "builtin", ("a", "b", "c"), epochs=1))
        *_, defense = stack
        return model, stack, defense


def the_gradient_is_finite_through_the_encoder(subject: DefenseSubject) -> None:
    """One step of training leaves finite weights, and reaches the encoder and more than half of all weights."""
    model, stack, _ = subject.assembled()
    _end_an_epoch(model, stack)
    images = torch.rand(12, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    everything = [*model.parameters(), *stack.task_parameters()]
    optimizer = SGD(everything, lr=0.1)
    figures = training_step(model, stack, optimizer, images, torch.arange(12) % _FEW_CLASSES, epoch=1, rate=0.01)
    finite = all(bool(figure.isfinite()) and not figure.requires_grad for figure in figures)
    assert finite, f"loss, penalty or accuracy of a step is not finite, or carries a gradient: {figures}"
    trained = [parameter for parameter in everything if parameter.grad is not None]
    assert len(trained) > len(everything) / 2, f"only {len(trained)} of {len(everything)} weights get a gradient"
    whole = all(bool(parameter.grad.isfinite().all()) for parameter in trained if parameter.grad is not None)
    assert whole, "a gradient is not finite"
    assert all(bool(parameter.isfinite().all()) for parameter in everything), "a weight is not finite after a step"
    reached = any(each.grad is not None and bool(each.grad.any()) for each in model.encoder.parameters())
    assert reached, "no gradient reaches the encoder"
    assert all(bool(value.isfinite().all()) for value in stack.state_dict().values()), "its state is not finite"


def the_shape_of_what_is_sent_is_that_of_the_features(subject: DefenseSubject) -> None:
    """In training and at inference, for one image and for several; the features themselves are left as they are."""
    for count in (1, 5):
        model, _, defense = subject.assembled()
        features = _features_of(model, count)
        before = features.clone()
        for mode in (True, False):
            sent = defense.train(mode)(features)
            got, expected = (sent.shape, sent.dtype), (features.shape, features.dtype)
            assert got == expected, f"what is sent is {got}, not {expected}"
        assert torch.equal(features, before), "what the encoder gave was changed in place"


def its_state_survives_a_round_trip(subject: DefenseSubject) -> None:
    """``state_dict`` of one run fits the defense of another."""
    model, stack, defense = subject.assembled()
    _end_an_epoch(model, stack)
    other_model, _, other = subject.assembled(seed=1)
    other.load_state_dict(defense.state_dict())
    other_model.load_state_dict(model.state_dict())
    assert same(defense.state_dict(), other.state_dict()), "its state is another after a round trip"


def the_same_seed_gives_the_same_output(subject: DefenseSubject) -> None:
    """Its randomness comes from `Defense.generator` alone."""
    model, _, defense = subject.assembled()
    _, _, again = subject.assembled()
    features = _features_of(model)
    assert torch.equal(defense(features), again(features)), "one seed gives two outputs"


def it_states_noise_exactly_when_it_draws_noise_alone(subject: DefenseSubject) -> None:
    """``noise_variance`` is above 0 exactly where features of zeros are not sent alike."""
    model, _, defense = subject.assembled()
    sent = defense(torch.zeros(24, *model.feature_shape))
    noisy = bool((sent != sent[:1]).any())
    assert (defense.noise_variance > 0) == noisy, f"noise_variance is {defense.noise_variance}, noise on zeros: {noisy}"


@torch.no_grad()
def who_has_the_weights_computes_what_is_sent_on_average(subject: DefenseSubject) -> None:
    """``expected`` is the mean over draws of what is sent, both as far as ``undone`` undoes them.

    A white-box attacker who matched anything else would be too weak, and the defense would look better than it is.
    """
    model, _, defense = subject.assembled()
    features, draws = (
        model.eval().encoder(torch.rand(4, *model.image_shape, generator=torch.Generator().manual_seed(0))),
        400,
    )
    defense.eval()
    sent = defense.undone(torch.cat([defense(features) for _ in range(draws)])).unflatten(0, (draws, -1))
    error = (sent.std(0) / math.sqrt(draws)).clamp(min=1e-6)
    apart = (sent.mean(0) - defense.undone(defense.expected(features))).abs() / error
    assert float(apart.max()) < _STANDARD_ERRORS, "expected is not the mean of what is sent"


def it_has_adaptive_attacks_exactly_where_it_puts_a_head(subject: DefenseSubject) -> None:
    """``adaptive_attacks`` are said where the last layer is a `Head`, whose logits `Head.unmask` leaves as they are."""
    model, stack, defense = subject.assembled()
    stack.finish(model)
    heads = [layer for layer in model.head.eval().modules() if isinstance(layer, Head)]
    said = sorted(defense.adaptive_attacks)
    assert bool(said) == bool(heads), f"adaptive_attacks are {said}, heads in place of the last layer: {len(heads)}"
    features = _features_of(model)
    before = model.head(features)
    for head in heads:
        head.unmask()
    assert not heads or torch.equal(model.head(features), before), "its head gives other logits without its mask"


def its_config_is_closed_and_complete_without_values(subject: DefenseSubject) -> None:
    """It can be made from its defaults, and an unknown setting is an error."""
    kind = subject.kind
    defense = kind(kind.config_type())
    assert getattr(defense, "config", None) == kind.config_type(), "it does not keep its config as `config`"
    with refused(ValueError, "no_such_setting"):
        kind.config_type.parse({"no_such_setting": 1}, source=kind.name)


def it_is_documented(subject: DefenseSubject) -> None:
    """It has a docstring, and each of its settings a description."""
    assert subject.kind.__doc__, "it has no docstring"
    fields = subject.kind.config_type.model_fields
    silent = [name for name, setting in fields.items() if not setting.description]
    assert not silent, f"settings without a description: {silent}"


def the_halves_of_a_trained_target_load_and_predict_as_it_does(subject: DefenseSubject) -> None:
    """A target that is trained under it is saved, and its halves are loaded apart."""
    images = small_splits().victims.floats()
    with subject.listed(), tempfile.TemporaryDirectory() as name:
        target, folder = _trained(subject, 1), Path(name) / "a"
        save(folder, "small", target)
        edge, cloud = load_edge(folder / "edge", CPU, seed=0), load_cloud(folder / "cloud", CPU)
        with torch.no_grad():
            features = target.model.encoder(images.contiguous(memory_format=torch.channels_last))
            expected = target.model.head(load_edge(folder / "edge", CPU, seed=0).stack(features))
        logits = torch.from_numpy(cloud.predict(edge.encode(images.numpy())))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def an_interrupted_training_ends_with_the_same_bits(subject: DefenseSubject) -> None:
    """A training that is killed in its second epoch, and goes on from its checkpoint; it takes seconds."""
    with subject.listed(), tempfile.TemporaryDirectory() as name:
        whole, checkpoint = _trained(subject, 2), Path(name) / "checkpoint"

        def killed(_: str, done: float, total: int, __: Mapping[str, float]) -> None:
            if done == total:
                raise KeyboardInterrupt

        config, stopped = subject.target(classes=CLASSES, epochs=2), False
        with mock.patch.dict(epochs.__kwdefaults__, every_s=0.0):
            try:
                train(config, small_splits(), device=CPU, checkpoint=checkpoint, report=killed)
            except KeyboardInterrupt:
                stopped = True
        assert stopped, "the training was not interrupted"
        resumed = train(config, small_splits(), device=CPU, checkpoint=checkpoint)
    assert same(_weights(resumed), _weights(whole)), "an interrupted training ends with other weights"
    assert resumed.record == whole.record, "an interrupted training ends with another record"


DEFENSE_CHECKS: tuple[Callable[[DefenseSubject], None], ...] = (
    its_config_is_closed_and_complete_without_values,
    it_is_documented,
    the_gradient_is_finite_through_the_encoder,
    the_shape_of_what_is_sent_is_that_of_the_features,
    its_state_survives_a_round_trip,
    the_same_seed_gives_the_same_output,
    it_states_noise_exactly_when_it_draws_noise_alone,
    who_has_the_weights_computes_what_is_sent_on_average,
    it_has_adaptive_attacks_exactly_where_it_puts_a_head,
    the_halves_of_a_trained_target_load_and_predict_as_it_does,
    an_interrupted_training_ends_with_the_same_bits,
)


def check_defense(
    kind: type[Defense], settings: Mapping[str, Any] | None = None, *, behind: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Holds a defense to what every defense keeps; a few seconds.

    Args:
        kind: Its class; it need not be registered.
        settings: That make its effect felt in two epochs of a small network; default: its own.
        behind: Defenses that it needs before it, as ``{"name": "gaussian-noise"}``.

    Raises:
        AssertionError: Something is not kept.
    """
    for check in DEFENSE_CHECKS:
        check(DefenseSubject(kind, settings or {}, behind))


def _features_of(model: SplitModel, count: int = 24) -> Tensor:
    return torch.rand(count, *model.feature_shape, generator=torch.Generator().manual_seed(0))


def _end_an_epoch(model: SplitModel, stack: Stack) -> None:
    stack.on_epoch(EpochEnd(0, 10, lambda: (_features_of(model), torch.arange(24) % _FEW_CLASSES)))


def _trained(subject: DefenseSubject, epochs: int) -> Target:
    return train(subject.target(classes=CLASSES, epochs=epochs), small_splits(), device=CPU)


def _weights(target: Target) -> dict[str, Tensor]:
    stack = {f"stack.{key}": tensor for key, tensor in target.stack.state_dict().items()}
    return {**target.model.state_dict(), **stack}
