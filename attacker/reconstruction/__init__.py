"""The table of reconstruction attacks: they invert captured features or shared scores to the victims' images."""

from typing import TYPE_CHECKING

from splitleak.tables import Imported, Table

if TYPE_CHECKING:
    from splitleak.attacker.base import Attack

ATTACKS: Table["type[Attack]"] = Table(
    "attack",
    {
        "decoder": Imported("splitleak.attacker.reconstruction.decoder:DecoderAttack"),
        "gan": Imported("splitleak.attacker.reconstruction.gan:GanAttack"),
        "inverse-network": Imported("splitleak.attacker.reconstruction.inverse_network:InverseNetworkAttack"),
        "linear": Imported("splitleak.attacker.reconstruction.linear:LinearAttack"),
        "maximum-likelihood": Imported("splitleak.attacker.reconstruction.whitebox:MaximumLikelihoodAttack"),
        "nearest": Imported("splitleak.attacker.reconstruction.nearest:NearestAttack"),
        "prediction-inversion": Imported("splitleak.attacker.reconstruction.prediction:PredictionInversionAttack"),
        "query-free": Imported("splitleak.attacker.reconstruction.query_free:QueryFreeAttack"),
    },
    group="splitleak.attacks",
    base=Imported("splitleak.attacker.base:Attack"),
)
