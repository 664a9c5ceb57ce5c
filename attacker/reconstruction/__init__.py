"""Attacks that rebuild the images behind captured features. This table is all that knows them by name."""

from attacker.base import Attack
from attacker.reconstruction.decoder import DecoderAttack

ATTACKS: dict[str, type[Attack]] = {kind.name: kind for kind in (DecoderAttack,)}
