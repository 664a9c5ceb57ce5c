"""Attacks that rebuild the images behind captured features or shared scores. This table alone knows them by name."""

from splitleak.attacker.base import Attack
from splitleak.attacker.reconstruction.decoder import DecoderAttack
from splitleak.attacker.reconstruction.gan import GanAttack
from splitleak.attacker.reconstruction.inverse_network import InverseNetworkAttack
from splitleak.attacker.reconstruction.prediction import PredictionInversionAttack
from splitleak.attacker.reconstruction.query_free import QueryFreeAttack
from splitleak.attacker.reconstruction.whitebox import MaximumLikelihoodAttack

_KINDS: tuple[type[Attack], ...] = (
    DecoderAttack,
    GanAttack,
    InverseNetworkAttack,
    MaximumLikelihoodAttack,
    PredictionInversionAttack,
    QueryFreeAttack,
)

ATTACKS: dict[str, type[Attack]] = {kind.name: kind for kind in _KINDS}
