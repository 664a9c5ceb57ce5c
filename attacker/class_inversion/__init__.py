"""Attacks that rebuild images of each class a model was trained on. This table is all that knows them by name."""

from splitleak.attacker.class_inversion.base import ClassInversion
from splitleak.attacker.class_inversion.brep import BREPMI
from splitleak.attacker.class_inversion.class_inference import ClassInference
from splitleak.attacker.class_inversion.gmi import GMI
from splitleak.attacker.class_inversion.if_gmi import IFGMI
from splitleak.attacker.class_inversion.ked import KEDMI
from splitleak.attacker.class_inversion.lomma import LommaGMI, LommaKED
from splitleak.attacker.class_inversion.mi_face import MIFace
from splitleak.attacker.class_inversion.mirror import Mirror, MirrorGenetic
from splitleak.attacker.class_inversion.plg import PLGMI
from splitleak.attacker.class_inversion.ppa import PPA
from splitleak.attacker.class_inversion.vmi import VMI

_KINDS: tuple[type[ClassInversion], ...] = (
    BREPMI,
    ClassInference,
    GMI,
    IFGMI,
    KEDMI,
    LommaGMI,
    LommaKED,
    MIFace,
    Mirror,
    MirrorGenetic,
    PLGMI,
    PPA,
    VMI,
)

CLASS_ATTACKS: dict[str, type[ClassInversion]] = {kind.name: kind for kind in _KINDS}
