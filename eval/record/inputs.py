"""What a judge is handed: the artifact that was attacked, and what the attack left; each as the record tells it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splitleak.config import read_table
from splitleak.defenses.artifact import artifact_digest, read_record
from splitleak.eval.record.schema import AttackRun, Target, ThreatModel

_OF_THREAT = ("knowledge", "queries", "draws", "views", "access", "adaptive", "ignores_output_policy")
_OF_RUN = ("config", "seed", "rebuilt", "findings", "prior", "provenance")


def target_of(artifact: Path) -> tuple[Target, dict[str, Any]]:
    """The target of a record, and all of its ``artifact.json``.

    Raises:
        FileNotFoundError: There is no artifact.
    """
    made = read_record(artifact)
    told = {key: made[key] for key in ("name", "dataset", "accuracy", "provenance")}
    document = {**told, "design": made["target"], "digest": artifact_digest(artifact)}
    return Target.parse(document, source=str(artifact)), made


@dataclass(frozen=True)
class Attacked:
    """What ``attack.json`` says: the run, the hashes of the attacker's images, and the whole document besides these."""

    run: AttackRun
    public: tuple[str, ...]
    document: Mapping[str, Any]
    source: str

    @classmethod
    def read(cls, folder: Path) -> "Attacked":
        """Reads what an attack left in ``folder``.

        Raises:
            FileNotFoundError: There is no ``attack.json``.
            ValueError: It is none.
        """
        path = folder / "attack.json"
        document = read_table(path)
        told = {key: document[key] for key in _OF_RUN if key in document}
        run = AttackRun.parse({**told, "name": document["attack"]}, source=str(path))
        return cls(run, tuple(document["public_hashes"]), document, str(path))

    def threat_model(self, **told: object) -> ThreatModel:
        """What the attacker saw, knew and asked; ``told`` is what only the judge can tell."""
        document = {key: self.document[key] for key in _OF_THREAT if key in self.document}
        return ThreatModel.parse({**document, **told}, source=self.source)

    def identity(self, *keys: str) -> list[Any]:
        """What of it tells one attack from another; a key that older attacks did not write is left out."""
        return [self.document[key] for key in keys if key in self.document]
