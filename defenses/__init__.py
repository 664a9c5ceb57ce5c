"""Defenses, and one opposite of a defense, one a file. This table is all that knows them by name."""

from defenses.base import Defense
from defenses.bido import BiDO
from defenses.bottleneck import Bottleneck
from defenses.cem import CEM
from defenses.confidence import ConfidenceAdaptation
from defenses.dropout import Dropout
from defenses.joint_inversion import JointInversion
from defenses.label_smoothing import LabelSmoothing
from defenses.low_rank import LowRank
from defenses.mid import MID
from defenses.noise import GaussianNoise, LaplaceNoise
from defenses.noise_arl import NoiseARL
from defenses.nopeek import NoPeek
from defenses.patrol import Patrol
from defenses.ressfl import ResSFL
from defenses.transfer import Transfer

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
