"""The table of class inversion attacks (model inversion): they rebuild images of each class of a model."""

from typing import TYPE_CHECKING

from splitleak.tables import Imported, Table

if TYPE_CHECKING:
    from splitleak.attacker.class_inversion.base import ClassInversion

CLASS_ATTACKS: Table["type[ClassInversion]"] = Table(
    "class attack",
    {
        "brep-mi": Imported("splitleak.attacker.class_inversion.brep:BREPMI"),
        "class-inference": Imported("splitleak.attacker.class_inversion.class_inference:ClassInference"),
        "gmi": Imported("splitleak.attacker.class_inversion.gmi:GMI"),
        "if-gmi": Imported("splitleak.attacker.class_inversion.if_gmi:IFGMI"),
        "ked-mi": Imported("splitleak.attacker.class_inversion.ked:KEDMI"),
        "lomma-gmi": Imported("splitleak.attacker.class_inversion.lomma:LommaGMI"),
        "lomma-ked": Imported("splitleak.attacker.class_inversion.lomma:LommaKED"),
        "mi-face": Imported("splitleak.attacker.class_inversion.mi_face:MIFace"),
        "mirror": Imported("splitleak.attacker.class_inversion.mirror:Mirror"),
        "mirror-genetic": Imported("splitleak.attacker.class_inversion.mirror:MirrorGenetic"),
        "plg-mi": Imported("splitleak.attacker.class_inversion.plg:PLGMI"),
        "ppa": Imported("splitleak.attacker.class_inversion.ppa:PPA"),
        "prior-samples": Imported("splitleak.attacker.class_inversion.baselines:PriorSamples"),
        "prior-samples-by-label": Imported("splitleak.attacker.class_inversion.baselines:PriorSamplesByLabel"),
        "public-by-label": Imported("splitleak.attacker.class_inversion.baselines:PublicByLabel"),
        "public-by-scores": Imported("splitleak.attacker.class_inversion.baselines:PublicByScores"),
        "public-own-labels": Imported("splitleak.attacker.class_inversion.baselines:PublicOwnLabels"),
        "vmi": Imported("splitleak.attacker.class_inversion.vmi:VMI"),
    },
    group="splitleak.class_attacks",
    base=Imported("splitleak.attacker.class_inversion.base:ClassInversion"),
)
