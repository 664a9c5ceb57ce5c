"""What every attack on victims keeps, be it of features or of predictions."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from splitleak.attacker.base import Attack, Knowledge, Query, Run, Seen
from splitleak.measures.pixel import mse
from splitleak.models import ArchitectureName
from splitleak.testing.material import refused, small_network, small_splits, undefended


@dataclass(frozen=True)
class AttackSubject:
    """An attack under test, with settings that make it quick enough.

    ``brief`` are further settings for checks that ask for no good attack. ``error`` is the share of the mean image's
    error that it may leave on an undefended network; None asks nothing. ``architecture`` is that network's.
    """

    kind: type[Attack]
    settings: Mapping[str, Any] = field(default_factory=dict)
    brief: Mapping[str, Any] = field(default_factory=dict)
    error: float | None = 0.5
    architecture: ArchitectureName = "cnn"

    def made(self, *, brief: bool = False) -> Attack:
        """The attack itself."""
        given = {**self.settings, **(self.brief if brief else {})}
        return self.kind(self.kind.config_type.parse(given, source=f"attack {self.kind.name!r}"))

    def known(self, takes: Seen | None = None) -> Knowledge:
        """A threat model that withholds nothing but the victims' images; it captured what the attack takes."""
        return _known(takes or self.kind.takes, self.architecture)


@cache
def _known(takes: Seen, architecture: ArchitectureName) -> Knowledge:
    model, images = undefended(architecture), small_splits()
    victims = images.victims.floats()

    def send(shown: Tensor) -> Tensor:
        seen: Tensor = model.encoder(shown) if takes == "features" else model(shown).softmax(1)
        return seen

    return Knowledge(
        captured=send(victims),
        image_shape=(victims.shape[1], victims.shape[2], victims.shape[3]),
        public=images.public.floats(),
        query=Query(send),
        labels=images.public.labels,
        encoder=model.encoder,
        head=model.head,
        fresh_encoder=lambda: small_network(architecture).encoder,
        kind=takes,
    )


def it_rebuilds_an_undefended_model_better_than_the_mean_image(subject: AttackSubject) -> None:
    """At `AttackSubject.error` of the mean image's mean squared error, at most."""
    if subject.error is None:
        return
    truth, known = small_splits().victims.floats(), subject.known()
    assert known.public is not None
    of_the_mean = mse(known.public.mean(0).expand_as(truth), truth).mean()
    left = float(mse(subject.made()(known), truth).mean() / of_the_mean)
    assert left <= subject.error, f"it leaves {left:.2f} of the mean image's error, more than {subject.error}"


def it_gives_one_image_in_range_for_each_capture_and_reports_findings(subject: AttackSubject) -> None:
    """Its images are as many as what was captured, and in [0, 1]; ``findings`` says something."""
    attack, known = subject.made(brief=True), subject.known()
    rebuilt = attack(replace(known, captured=known.captured[:5]))
    expected = (5, *known.image_shape)
    assert tuple(rebuilt.shape) == expected, f"it gives {tuple(rebuilt.shape)}, not {expected}"
    assert 0 <= rebuilt.min() <= rebuilt.max() <= 1, "its images are not in [0, 1]"
    assert attack.findings, "it reports no findings"


def it_refuses_by_name_each_missing_piece_of_knowledge(subject: AttackSubject) -> None:
    """``needs`` names fields of `Knowledge`."""
    attack, known = subject.made(), subject.known()
    unknown = attack.needs - ({each.name for each in fields(Knowledge)} - {"captured", "image_shape"})
    assert not unknown, f"it needs what no threat model has: {sorted(unknown)}"
    for need in attack.needs:
        withheld: Any = {need: None}
        with refused(PermissionError, subject.kind.name, repr(need)):
            attack(replace(known, **withheld))


def it_refuses_scores_for_features_and_features_for_scores(subject: AttackSubject) -> None:
    """Its ``takes`` is one of the two."""
    right = subject.kind.takes
    wrong: Seen = "scores" if right == "features" else "features"
    with refused(ValueError, f"{subject.kind.name!r}: expected captured {right} ", f"got {wrong} "):
        subject.made()(subject.known(wrong))


def one_seed_gives_the_same_images_whatever_ran_before(subject: AttackSubject) -> None:
    """Its randomness comes from the seed of its `Run` alone."""
    few = replace(subject.known(), captured=subject.known().captured[:8])
    first = subject.made(brief=True)(few, Run(seed=3))
    torch.rand(7)
    assert torch.equal(subject.made(brief=True)(few, Run(seed=3)), first), "one seed gives two results"


def both_its_presets_are_sound(subject: AttackSubject) -> None:
    """It can be made from its defaults and from ``paper_config``, and has a docstring."""
    kind = subject.kind
    kind(kind.config_type())
    kind(kind.paper_config())
    assert kind.__doc__, "it has no docstring"


ATTACK_CHECKS: tuple[Callable[[AttackSubject], None], ...] = (
    both_its_presets_are_sound,
    it_refuses_by_name_each_missing_piece_of_knowledge,
    it_refuses_scores_for_features_and_features_for_scores,
    it_gives_one_image_in_range_for_each_capture_and_reports_findings,
    one_seed_gives_the_same_images_whatever_ran_before,
    it_rebuilds_an_undefended_model_better_than_the_mean_image,
)


def check_attack(
    kind: type[Attack],
    settings: Mapping[str, Any] | None = None,
    *,
    brief: Mapping[str, Any] | None = None,
    error: float | None = 0.5,
) -> None:
    """Holds an attack on victims to what every such attack keeps.

    Args:
        kind: Its class; it need not be registered.
        settings: That make it quick on 300 public images of 16 × 16.
        brief: Further settings, where no good attack is asked for.
        error: What it may leave of the mean image's error on an undefended network, from 0 to 1; None: anything.

    Raises:
        AssertionError: Something is not kept.
    """
    for check in ATTACK_CHECKS:
        check(AttackSubject(kind, settings or {}, brief or {}, error))
