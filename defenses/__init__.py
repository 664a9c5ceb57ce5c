"""The registry of defenses by name, one per file; `JointInversion` is the opposite of a defense."""

from splitleak.defenses.base import Defense
from splitleak.defenses.classes.bido import BiDO
from splitleak.defenses.classes.confidence import ConfidenceAdaptation
from splitleak.defenses.classes.label_smoothing import LabelSmoothing
from splitleak.defenses.classes.low_rank import LowRank
from splitleak.defenses.classes.mid import MID
from splitleak.defenses.classes.transfer import Transfer
from splitleak.defenses.features.bottleneck import Bottleneck
from splitleak.defenses.features.cem import CEM
from splitleak.defenses.features.dropout import Dropout
from splitleak.defenses.features.noise import GaussianNoise, LaplaceNoise
from splitleak.defenses.features.noise_arl import NoiseARL
from splitleak.defenses.features.nopeek import NoPeek
from splitleak.defenses.features.patrol import Patrol
from splitleak.defenses.features.ressfl import ResSFL
from splitleak.defenses.predictions.joint_inversion import JointInversion

DEFENSES: dict[str, type[Defense]] = {
    kind.name: kind
    for kind in (
        BiDO,
        Bottleneck,
        CEM,
        ConfidenceAdaptation,
        Dropout,
        GaussianNoise,
        JointInversion,
        LabelSmoothing,
        LaplaceNoise,
        LowRank,
        MID,
        NoiseARL,
        NoPeek,
        Patrol,
        ResSFL,
        Transfer,
    )
}
