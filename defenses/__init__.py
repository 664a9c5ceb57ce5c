"""The registry of defenses by name, one per file; `JointInversion` is the opposite of a defense."""

from typing import TYPE_CHECKING

from splitleak.tables import Imported, Table

if TYPE_CHECKING:
    from splitleak.defenses.base import Defense

DEFENSES: Table["type[Defense]"] = Table(
    "defense",
    {
        "bido": Imported("splitleak.defenses.classes.bido:BiDO"),
        "bottleneck": Imported("splitleak.defenses.features.bottleneck:Bottleneck"),
        "cem": Imported("splitleak.defenses.features.cem:CEM"),
        "confidence-adaptation": Imported("splitleak.defenses.classes.confidence:ConfidenceAdaptation"),
        "dropout": Imported("splitleak.defenses.features.dropout:Dropout"),
        "gaussian-noise": Imported("splitleak.defenses.features.noise:GaussianNoise"),
        "joint-inversion": Imported("splitleak.defenses.predictions.joint_inversion:JointInversion"),
        "label-smoothing": Imported("splitleak.defenses.classes.label_smoothing:LabelSmoothing"),
        "laplace-noise": Imported("splitleak.defenses.features.noise:LaplaceNoise"),
        "low-rank": Imported("splitleak.defenses.classes.low_rank:LowRank"),
        "mid": Imported("splitleak.defenses.classes.mid:MID"),
        "noise-arl": Imported("splitleak.defenses.features.noise_arl:NoiseARL"),
        "nopeek": Imported("splitleak.defenses.features.nopeek:NoPeek"),
        "patrol": Imported("splitleak.defenses.features.patrol:Patrol"),
        "permutation": Imported("splitleak.defenses.features.permutation:Permutation"),
        "quantisation": Imported("splitleak.defenses.features.quantisation:Quantisation"),
        "ressfl": Imported("splitleak.defenses.features.ressfl:ResSFL"),
        "transfer": Imported("splitleak.defenses.classes.transfer:Transfer"),
    },
    group="splitleak.defenses",
    base=Imported("splitleak.defenses.base:Defense"),
)
