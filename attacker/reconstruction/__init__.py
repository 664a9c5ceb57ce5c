"""Attacks that rebuild the images behind captured features. This table is all that knows them by name."""

from attacker.base import Attack
from attacker.reconstruction.decoder import DecoderAttack
from attacker.reconstruction.gan import GanAttack
from attacker.reconstruction.inverse_network import InverseNetworkAttack
from attacker.reconstruction.query_free import QueryFreeAttack
from attacker.reconstruction.whitebox import MaximumLikelihoodAttack

_KINDS: tuple[type[Attack], ...] = (
    DecoderAttack,
    GanAttack,
    InverseNetworkAttack,
    MaximumLikelihoodAttack,
    QueryFreeAttack,
)

ATTACKS: dict[str, type[Attack]] = {kind.name: kind for kind in _KINDS}
