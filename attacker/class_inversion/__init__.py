"""Attacks that rebuild images of each class a model was trained on. This table is all that knows them by name."""

from attacker.class_inversion.base import ClassInversion
from attacker.class_inversion.class_inference import ClassInference
from attacker.class_inversion.gmi import GMI
from attacker.class_inversion.mi_face import MIFace
from attacker.class_inversion.ppa import PPA

_KINDS: tuple[type[ClassInversion], ...] = (ClassInference, GMI, MIFace, PPA)

CLASS_ATTACKS: dict[str, type[ClassInversion]] = {kind.name: kind for kind in _KINDS}
