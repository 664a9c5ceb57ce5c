"""The table of reconstruction attacks: they invert captured features or shared scores to the victims' images."""

from typing import TYPE_CHECKING

from splitleak.tables import Imported, Table

if TYPE_CHECKING:
    from splitleak.attacker.base import Attack

ATTACKS: Table["type[Attack]"] = Table(
    "attack",
    {
        "decoder": Imported("splitleak.attacker.reconstruction.decoder:DecoderAttack"),
        "drag": Imported("splitleak.attacker.reconstruction.drag:DragAttack"),
        "ensemble": Imported("splitleak.attacker.reconstruction.ensemble:EnsembleAttack"),
        "fora": Imported("splitleak.attacker.reconstruction.fora:ForaAttack"),
        "gan": Imported("splitleak.attacker.reconstruction.gan:GanAttack"),
        "glass": Imported("splitleak.attacker.reconstruction.glass:GlassAttack"),
        "inverse-network": Imported("splitleak.attacker.reconstruction.inverse_network:InverseNetworkAttack"),
        "linear": Imported("splitleak.attacker.reconstruction.linear:LinearAttack"),
        "maximum-likelihood": Imported("splitleak.attacker.reconstruction.whitebox:MaximumLikelihoodAttack"),
        "nearest": Imported("splitleak.attacker.reconstruction.nearest:NearestAttack"),
        "peel": Imported("splitleak.attacker.reconstruction.peel:PeelAttack"),
        "pfo": Imported("splitleak.attacker.reconstruction.pfo:PfoAttack"),
        "prediction-inversion": Imported("splitleak.attacker.reconstruction.prediction:PredictionInversionAttack"),
        "query-free": Imported("splitleak.attacker.reconstruction.query_free:QueryFreeAttack"),
        "sdar": Imported("splitleak.attacker.reconstruction.sdar:SdarAttack"),
    },
    group="splitleak.attacks",
    base=Imported("splitleak.attacker.base:Attack"),
)
