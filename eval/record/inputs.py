"""The inputs of a judge as a record has them: the attacked artifact, and the attack's outputs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from splitleak.attacker.outputs import Reconstructions
from splitleak.config import digest, read_table
from splitleak.defenses.artifact import artifact_digest, read_record
from splitleak.eval.record.schema import AttackRun, Target, ThreatModel
from splitleak.plugins import Plugin, check_recorded, recorded

_OF_THREAT = ("knowledge", "queries", "draws", "views", "access", "adaptive", "ignores_output_policy", "capture")
_ALWAYS = ("config", "seed", "queries", "knowledge")
_OF_RUN = ("config", "seed", "rebuilt", "findings", "prior", "provenance")


def target_of(artifact: Path) -> tuple[Target, dict[str, Any]]:
    """The target's entry in a record, and its whole ``artifact.json``.

    Raises:
        FileNotFoundError: The artifact is missing.
    """
    record = read_record(artifact)
    about = {key: record[key] for key in ("name", "dataset", "accuracy", "provenance")}
    about["right_answer"] = record.get("right_answer")
    document = {**about, "design": record["target"], "digest": artifact_digest(artifact)}
    return Target.parse(document, source=str(artifact)), record


@dataclass(frozen=True)
class Attacked:
    """The contents of ``attack.json``: the run, the hashes of the attacker's images, and the rest of the document."""

    run: AttackRun
    public: tuple[str, ...]
    document: Mapping[str, Any]
    source: str

    @property
    def models(self) -> dict[str, str]:
        """Digests of the ``edge`` and ``cloud`` halves, or the ``artifact``, that it had; older ones tell none."""
        return dict(self.document.get("models", {}))

    @classmethod
    def read(cls, folder: Path) -> "Attacked":
        """Reads the outputs of an attack.

        Raises:
            FileNotFoundError: There is no ``attack.json``.
            LookupError: The attack is a plug-in's that is not installed.
            PermissionError: The attack is a plug-in's that is not allowed.
            ValueError: It is not what an attack writes.
        """
        path = folder / "attack.json"
        document = read_table(path)
        check_recorded(recorded(document.get("plugins", ())), f"{path}: made with")
        if lacking := [key for key in _ALWAYS if key not in document]:  # a default would be another threat model
            raise ValueError(f"{path}: expected keys {', '.join(lacking)} too, got {', '.join(document)}")
        about = {key: document[key] for key in _OF_RUN if key in document}
        run = AttackRun.parse({**about, "name": document["attack"]}, source=str(path))
        public = document["public_hashes"]
        if not isinstance(public, list) or not all(isinstance(each, str) for each in public):
            raise ValueError(f"{path}: expected a list of hashes as public_hashes, got {public!r:.40}")
        if not isinstance(document.get("models", {}), dict):
            raise ValueError(f"{path}: expected digests by name as models, got {document['models']!r:.40}")
        if not public and "public" in document.get("knowledge", ()):
            raise ValueError(f"{path}: expected the hashes of the images that the attack knew, got none")
        return cls(run, tuple(public), document, str(path))

    def check_public(self, rebuilt: Reconstructions) -> None:
        """Validates that the list of the attacker's images is the one that the reconstructions were written with.

        Raises:
            ValueError: Hashes were taken from it, or added.
        """
        own = digest(sorted(self.public))
        if rebuilt.public not in (None, own):
            asked = f"the hashes of all images that the attack knew, {rebuilt.public}"
            raise ValueError(f"{self.source}: expected {asked}, got {len(self.public)} others, {own}")

    def threat_model(self, **known_to_judge: object) -> ThreatModel:
        """The threat model: knowledge and queries of the attack, and what only the judge knows of it."""
        document = {key: self.document[key] for key in _OF_THREAT if key in self.document}
        document |= {"draws": self.document["asked"]} if "asked" in self.document else {}
        return ThreatModel.parse({**document, **known_to_judge}, source=self.source)

    def plugins(self, *others: Iterable[Any]) -> tuple[Plugin, ...] | None:
        """The plug-ins of the attack and the ``others``, as files describe them; None where there are none."""
        return recorded([*self.document.get("plugins", ()), *chain(*others)]) or None

    def identity(self, *keys: str) -> list[Any]:
        """The values that identify an attack, for the id of a record; keys that older attacks lack are left out."""
        return [self.document[key] for key in keys if key in self.document]
