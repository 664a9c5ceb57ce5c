"""The jobs of an audit of one target that is there: a capture, the list's attacks on it, and what tells no picture."""

from collections.abc import Iterator
from functools import cached_property
from typing import Literal

from pydantic import Field

from splitleak.config import digest
from splitleak.datasets.files import load_file
from splitleak.datasets.images import Images
from splitleak.defenses.artifact import EdgeHalf, artifact_digest, load_edge, read_record
from splitleak.edge.ledger import images_digest
from splitleak.eval.campaign.audit.attacks import Sizes, audit_entries
from splitleak.eval.campaign.audit.config import AuditConfig, AuditedTarget
from splitleak.eval.campaign.audit.predictions import Inversion, inversions, prediction_jobs
from splitleak.eval.campaign.config import AttackEntry, CampaignHead, code_of_targets
from splitleak.eval.campaign.plan import Job, Plan, capture_job, cell_job, linkage_job
from splitleak.eval.campaign.store import is_whole
from splitleak.eval.record.trained_on import check_known
from splitleak.eval.targets.linkage import LinkageConfig
from splitleak.seeding import resolve_device


class AuditCampaign(CampaignHead):
    """One target, and the audit of it."""

    kind: Literal["audit"] = "audit"
    target: AuditedTarget
    audit: AuditConfig = AuditConfig()
    linkage: LinkageConfig = Field(default=LinkageConfig(), description="of the leaks that are no pictures")

    def overview(self) -> list[tuple[str, ...]]:
        """The attacks, with what each is given."""
        if self.audit.threat == "predictions":
            listed = [(entry.name, str(entry.max_queries or "")) for entry in self.inversions()]
            return [("attack", "queries"), *listed]
        rows = [(entry.name, entry.attack, str(entry.views), str(entry.max_queries or "")) for entry in self.entries()]
        return [("attack", "kind", "crossings", "queries"), *rows]

    def entries(self) -> list[AttackEntry]:
        """The list's attacks on this target."""
        public, victims = self.images
        sizes = Sizes(
            pairs=len(public),
            victims=len(victims),
            feature_shape=self.half.feature_shape,
            image_shape=self.half.input_shape,
            randomised=any(defense.randomised for defense in self.half.stack),
            parts=self.half.config.parts,
        )
        return audit_entries(self.audit, sizes)

    def inversions(self) -> list[Inversion]:
        """The list's attacks on predictions of this target."""
        public, _ = self.images
        return inversions(self.audit.minutes, len(public), self.classes, self.half.input_shape)

    @cached_property
    def half(self) -> EdgeHalf:
        """The target's edge half.

        Raises:
            FileNotFoundError: There is none.
            ValueError: It is something else.
        """
        return load_edge(self.target.artifact / "edge", resolve_device("cpu"))

    @property
    def classes(self) -> int:
        """Scores that the target answers with, of which an imported one has not as many as its images have classes."""
        return self.half.config.target.model.classes

    @cached_property
    def images(self) -> tuple[Images, Images]:
        """The attacker's images, and the victims'.

        Raises:
            FileNotFoundError: They are not there.
        """
        public, victims = (load_file(self.target.images / f"{name}.npz").train for name in ("public", "victims"))
        return public, victims


def make_audit_plan(config: AuditCampaign) -> Plan:
    """The jobs of an audit. The target's training is one of them, which is done.

    Raises:
        FileNotFoundError: The target or its images are not there.
        ValueError: They are something else, or the target is not whole, which no audit makes anew; or it gives no
            predictions to be audited.
    """
    if not is_whole("train", config.target.artifact):
        expected = f"{config.target.artifact}: expected a target with both halves whole"
        raise ValueError(f"{expected}, got one whose weights are missing or cannot be read; nothing was changed")
    if config.audit.threat == "predictions":
        check_known(read_record(config.target.artifact), config.target.artifact)
        if config.classes < 2:
            expected = f"{config.target.artifact}: expected a target of two outputs or more for an audit of predictions"
            raise ValueError(f"{expected}, got one: its score is always 1")
    jobs = {job.id: job for seed in config.seeds for job in _of_seed(config, seed)}
    cells = tuple({"id": job.key, **job.settings["cell"]} for job in jobs.values() if job.kind == "cell")
    return Plan(config, tuple(jobs.values()), cells)


def _of_seed(config: AuditCampaign, seed: int) -> Iterator[Job]:
    target, half = config.target, config.half
    design = half.config.target.document()
    code = code_of_targets([design])
    there = {
        "images": str(target.images),
        "digest": digest([artifact_digest(target.artifact), *map(images_digest, config.images), *code.values()]),
        "target": design,
        **code,
    }
    key = digest([there, str(target.artifact), seed])
    train = Job.of("train", key, half.name, seed, str(target.artifact), (), there)
    yield train
    labels = {
        "dataset": half.config.dataset,
        "model": half.config.target.model.architecture,
        "method": half.name,
        "plus": None,
        **({} if target.codec == "fp32" else {"codec": target.codec}),
    }
    if config.audit.threat == "predictions":
        listed = {"campaign": config.name, **labels}
        yield from prediction_jobs(train, config.inversions(), config.classes, listed)
        return
    for entry in config.entries():
        capture = capture_job(train, entry, half.name, labels.get("codec"))
        yield capture
        yield cell_job(config, train, capture, entry, {**labels, "attack": entry.name}, half.name)
    yield linkage_job(train, config.linkage.model_copy(update={"seed": seed, "codec": target.codec}), half.name)
