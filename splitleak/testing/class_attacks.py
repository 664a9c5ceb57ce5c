"""What every attack on classes (model inversion) keeps."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch

from splitleak.attacker.base import Query, Run
from splitleak.attacker.class_inversion.base import ClassInversion, ClassKnowledge
from splitleak.attacker.prior import Prior
from splitleak.testing.material import CLASSES, classifier, refused, small_splits

_OPTIONAL = frozenset({"public", "query", "labels", "model", "prior"})


@dataclass(frozen=True)
class ClassAttackSubject:
    """An attack on classes under test, with settings that make it quick enough.

    ``brief`` are further settings for checks that ask for no good attack; ``prior`` is the generator that it searches,
    if it searches one, of 16 × 16 grey images. ``recognised`` is the share of its pictures that the attacked model is
    to take for the classes they are of.
    """

    kind: type[ClassInversion]
    settings: Mapping[str, Any] = field(default_factory=dict)
    brief: Mapping[str, Any] = field(default_factory=dict)
    prior: Prior | None = None
    recognised: float = 0.8

    def made(self, *, brief: bool = False, **settings: object) -> ClassInversion:
        """The attack itself."""
        given = {**self.settings, **(self.brief if brief else {}), **settings}
        return self.kind(self.kind.config_type.parse(given, source=f"attack {self.kind.name!r}"))

    def known(self) -> ClassKnowledge:
        """A threat model that withholds nothing but the training images."""
        model, public = classifier(), small_splits().public
        images = public.floats()
        return ClassKnowledge(
            image_shape=(images.shape[1], images.shape[2], images.shape[3]),
            classes=CLASSES,
            public=images,
            query=Query(lambda asked: model(asked).softmax(1)),
            labels=public.labels,
            model=model,
            prior=self.prior,
        )


def the_model_takes_most_of_its_pictures_for_the_classes_they_are_of(subject: ClassAttackSubject) -> None:
    """At least `ClassAttackSubject.recognised` of the first of each class; ``findings`` says something."""
    attack = subject.made()
    rebuilt = attack(subject.known())[:, 0]
    right = float((classifier()(rebuilt).argmax(1) == torch.arange(CLASSES)).float().mean())
    assert right >= subject.recognised, f"the model takes {right:.0%} of its pictures for their classes"
    assert attack.findings, "it reports no findings"


def it_gives_pictures_in_range_of_each_class_however_many_it_was_told(subject: ClassAttackSubject) -> None:
    """Whether it is told the number of classes, or has to find it from the answers."""
    known = subject.known()
    for classes in (CLASSES, None):
        rebuilt = subject.made(brief=True)(replace(known, classes=classes))
        shape = (rebuilt.shape[0], *rebuilt.shape[2:])
        assert shape == (CLASSES, *known.image_shape), f"it gives {tuple(rebuilt.shape)} for {CLASSES} classes"
        assert 0 <= rebuilt.min() <= rebuilt.max() <= 1, "its pictures are not in [0, 1]"


def it_refuses_by_name_each_missing_piece_of_knowledge(subject: ClassAttackSubject) -> None:
    """``needs`` names fields of `ClassKnowledge`, at least one."""
    attack, known = subject.made(), subject.known()
    unknown = attack.needs - ({each.name for each in fields(ClassKnowledge)} - {"image_shape", "classes"})
    assert not unknown, f"it needs what no threat model has: {sorted(unknown)}"
    assert attack.needs, "it needs nothing"
    for need in attack.needs:
        withheld: Any = {need: None}
        with refused(PermissionError, subject.kind.name, repr(need)):
            attack(replace(known, **withheld))


def it_uses_nothing_that_it_does_not_need(subject: ClassAttackSubject) -> None:
    """Without the rest, it gives the same pictures."""
    known, attack = subject.known(), subject.made(brief=True)
    withheld: Any = dict.fromkeys(_OPTIONAL - attack.needs)
    least = attack(replace(known, **withheld))
    assert torch.equal(least, subject.made(brief=True)(known)), "what it does not need changes its pictures"


def one_seed_gives_the_same_pictures_whatever_ran_before(subject: ClassAttackSubject) -> None:
    """Its randomness comes from the seed of its `Run` alone."""
    first = subject.made(brief=True)(subject.known(), Run(seed=3))
    torch.rand(7)
    assert torch.equal(subject.made(brief=True)(subject.known(), Run(seed=3)), first), "one seed gives two results"


def both_its_presets_are_sound(subject: ClassAttackSubject) -> None:
    """It can be made from its defaults and from ``paper_config``, says what it has access to, and has a docstring."""
    kind = subject.kind
    assert (kind.access == "white") == ("model" in kind.needs), "a white box needs the model, and no other attack does"
    kind(kind.config_type())
    kind(kind.paper_config())
    assert kind.__doc__, "it has no docstring"


CLASS_ATTACK_CHECKS: tuple[Callable[[ClassAttackSubject], None], ...] = (
    both_its_presets_are_sound,
    it_refuses_by_name_each_missing_piece_of_knowledge,
    it_gives_pictures_in_range_of_each_class_however_many_it_was_told,
    it_uses_nothing_that_it_does_not_need,
    one_seed_gives_the_same_pictures_whatever_ran_before,
    the_model_takes_most_of_its_pictures_for_the_classes_they_are_of,
)


def check_class_attack(
    kind: type[ClassInversion],
    settings: Mapping[str, Any] | None = None,
    *,
    brief: Mapping[str, Any] | None = None,
    prior: Prior | None = None,
    recognised: float = 0.8,
) -> None:
    """Holds an attack on classes to what every such attack keeps.

    Args:
        kind: Its class; it need not be registered.
        settings: That make it quick on ten classes of 16 × 16 grey images.
        brief: Further settings, where no good attack is asked for.
        prior: A generator of 16 × 16 grey images, for an attack that needs one.
        recognised: The share of its pictures that the model is to take for their classes, from 0 to 1.

    Raises:
        AssertionError: Something is not kept.
    """
    for check in CLASS_ATTACK_CHECKS:
        check(ClassAttackSubject(kind, settings or {}, brief or {}, prior, recognised))
