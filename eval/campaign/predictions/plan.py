"""The jobs of a campaign against predictions; see `splitleak.eval.campaign.plan` for the folder they share."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from splitleak.attacker.class_inversion import CLASS_ATTACKS
from splitleak.attacker.class_inversion.base import ClassInversion
from splitleak.attacker.run import AttackConfig
from splitleak.config import digest, merged
from splitleak.eval.campaign.config import SplitCounts, code_of, fingerprint
from splitleak.eval.campaign.plan import Job, Plan, classes_label, split_job, train_job
from splitleak.eval.campaign.predictions.config import FigureCampaign, FigureEntry, RowEntry


def make_prediction_plan(config: FigureCampaign) -> Plan:
    """The jobs of a campaign of figures; a job that several rows share is planned once.

    Raises:
        FileNotFoundError: The images are missing.
    """
    return plan_of_seeds(config, jobs_of_seeds(config))


def jobs_of_seeds(config: FigureCampaign) -> "list[SeedJobs]":
    """The jobs of each seed, in order; all share the data sets, each of which is read once for its `fingerprint`."""
    used = {config.dataset.data, config.distinct.data}
    if config.pretraining is not None:
        used.add(config.pretraining.data)
    hashes = {data: fingerprint(data) for data in used}
    return [SeedJobs(config, seed, hashes) for seed in config.seeds]


def plan_of_seeds(config: FigureCampaign, seeds: "Sequence[SeedJobs]") -> Plan:
    """`make_prediction_plan` from the jobs of each seed of ``config``, in order."""
    jobs: dict[str, Job] = {}
    for seed in seeds:
        for _, row in config.rows():
            for job in seed.of_row(row):
                jobs.setdefault(job.id, job)
    planned = tuple(
        {"id": cell.key, "figure": figure.name, "row": row.name, **cell.settings["cell"]}
        for figure, row in config.rows()
        for cell in (seed.cell(row) for seed in seeds)
    )
    return Plan(config, tuple(jobs.values()), planned)


class SeedJobs:
    """The jobs of one seed; equal rows share their jobs."""

    def __init__(self, config: FigureCampaign, seed: int, hashes: Mapping[str, str]) -> None:
        """``hashes`` are the fingerprints of the data sets of ``config``."""
        self._config, self._seed, self._hashes = config, seed, hashes
        self._shares: dict[str, set[int]] = {}
        self._auxiliaries: dict[str, set[str]] = {}
        for _, row in config.rows():
            if config.asks(row) == "recorded":
                name = self._service_key(row)
                self._shares.setdefault(name, set()).add(row.share)
                self._auxiliaries.setdefault(name, set()).add(row.auxiliary)

    def of_target(self, row: RowEntry) -> Iterator[Job]:
        """A row's target and its dependencies, in topological order."""
        yield self.split(row)
        if self._config.transfers(row):
            yield self._public()
            yield self._pretrain()
        yield self.train(row)

    def of_row(self, row: RowEntry) -> Iterator[Job]:
        """A row's cell and its dependencies, in topological order."""
        yield from self.of_target(row)
        yield self._evaluator(row)
        if row.auxiliary == "generic" and row.attack in CLASS_ATTACKS:
            yield self._open_images(row)
            yield self._open_judge(row)
        asks, needs = self._config.asks(row), self._config.attack(row).needs
        if asks != "recorded" and ("public" in needs or ("prior" in needs and self._config.own_prior is None)):
            yield self._own_images(row)
        if "prior" in needs:
            yield self._prior(row)
        if asks != "nothing" and row.purify is not None:
            yield self._purify(row)
        if asks == "recorded":
            if "distinct" in self._auxiliaries[self._service_key(row)]:
                yield self._distinct(row)
            yield self._predict(row)
        yield self.cell(row)

    def cell(self, row: RowEntry) -> Job:
        """The job whose output is the row's record."""
        config, attack, asks = self._config, self._config.attack(row), self._config.asks(row)
        split, train, evaluator = self.split(row), self.train(row), self._evaluator(row)
        needs = [split, train, evaluator]
        given: dict[str, Any] = {
            "images": split.settings["folder"],
            "artifact": train.output,
            "evaluator": evaluator.output,
            "attack": row.attack,
            "settings": attack.config.document(),
            "needs": sorted(attack.needs),
            "preset": config.preset,
            "auxiliary": row.auxiliary,
            "share": row.share,
            "draws": row.draws,
            "policy": config.policy(row),
            "purify": row.purify,
        }
        if asks != "recorded":  # without recorded queries, these do not affect the cell: not in its id
            for name in ("auxiliary", "share", "draws", "policy", "purify"):
                given[name] = None
        if "prior" in attack.needs:
            prior = self._prior(row)
            needs.append(prior)
            given["prior"] = prior.output
        if asks == "live" and isinstance(attack, ClassInversion):
            policy = config.policy(row)
            if not policy["top"] and not policy["rounding"]:  # which act on scores; else the client hears no more
                policy["label_only"] = attack.access == "label"
            given |= {"policy": policy, "purify": row.purify}
        if row.adaptive:
            given["adaptive"] = True
        if "public" in attack.needs:
            given["auxiliary"] = row.auxiliary
            needs += [self._distinct(row)] if row.auxiliary == "distinct" and asks != "recorded" else []
        given |= code_of([AttackConfig(attack=row.attack).plugin()])
        key = digest([given, self._seed])
        settings = {**given, "auxiliary_images": self._auxiliary(row.auxiliary, row), "predictions": None}
        if row.auxiliary == "generic" and row.attack in CLASS_ATTACKS:  # the judge's, no part of what is attacked
            judge = self._open_judge(row)
            needs.append(judge)
            settings |= {"open_judge": judge.output, "open_images": judge.settings["images"]}
        if config.embedder is not None and row.attack in CLASS_ATTACKS:  # the attack is that without one
            settings |= {"embedder": config.embedder.document(), "embedder_digest": config.embedder.digest}
            settings["attacked"] = f"cells/{key}/attack"
            key = digest([key, config.embedder.digest])
        if asks == "recorded":
            predict = self._predict(row)
            needs.append(predict)
            settings["predictions"] = predict.output
        elif given["purify"] is not None:
            purify = self._purify(row)
            needs.append(purify)
            settings["purifier"] = purify.output
        settings["cell"] = {
            "campaign": config.name,
            "kind": "classes" if row.attack in CLASS_ATTACKS else "victims",
            "dataset": config.dataset.name,
            "classes": row.classes,
            "auxiliary": row.auxiliary,
            "share": row.share,
            "policy": dict(row.policy),
            "purify": row.purify,
            "attack": row.attack,
            "seed": self._seed,
            "target": train.key,
        }
        label = f"{_title(config, row)}, seed {self._seed}"
        return Job.of("cell", key, label, self._seed, f"cells/{key}/score", needs, settings)

    def split(self, row: RowEntry) -> Job:
        """The split of a row's images."""
        dataset = self._config.dataset
        split = {"seed": self._seed, **self._config.split_of(row)}
        return split_job(dataset.name, self._hashes[dataset.data], dataset.document(), split, self._seed)

    def _distinct(self, row: RowEntry) -> Job:
        config = self._config
        public = config.split_of(row)["public"]
        split = {"seed": self._seed, "public": public, "victims": 1, "train": 1, "test": 1}
        dataset = {**config.dataset.document(), "data": config.distinct.data}
        return split_job("distinct", self._hashes[config.distinct.data], dataset, split, self._seed)

    def _public(self) -> Job:
        """The split of the public images for pre-training."""
        config = self._config
        assert config.pretraining is not None
        counts = SplitCounts.parse(merged({"public": 1, "victims": 1}, config.pretraining.split), source="pretraining")
        dataset = {**config.dataset.document(), "data": config.pretraining.data}
        split = {"seed": self._seed, **counts.document()}
        return split_job("pretraining", self._hashes[config.pretraining.data], dataset, split, self._seed)

    def _pretrain(self) -> Job:
        return train_job(self._public(), self._config.pretrained_target(self._seed), "pre-trained")

    def train(self, row: RowEntry, images: Job | None = None) -> Job:
        """The training of a row's target, on its own split or on ``images``, the job of poisoned ones."""
        names = ", ".join(defense.name for defense in row.defenses) or "target"
        title = f"{names}{classes_label(row.classes)}{'' if images is None else ', poisoned'}"
        pretrained = self._pretrain() if self._config.transfers(row) else None
        return train_job(images or self.split(row), self._config.target(row, self._seed), title, pretrained)

    def _evaluator(self, row: RowEntry) -> Job:
        target = self._config.evaluator_target(self._seed)
        return train_job(self.split(row), target, f"evaluator{classes_label(row.classes)}")

    def _open_images(self, row: RowEntry) -> Job:
        """The images of a judge that knows the target's classes and the attacker's."""
        split = self.split(row)
        key = digest([split.key, "open set"])
        folder = f"images/open-s{self._seed}-{key}"
        settings = {"images": split.settings["folder"], "folder": folder}
        label = f"open set{classes_label(row.classes)}, seed {self._seed}"
        return Job.of("open", key, label, self._seed, f"{folder}/splits.json", [split], settings)

    def _open_judge(self, row: RowEntry) -> Job:
        target = self._config.evaluator_target(self._seed)
        return train_job(self._open_images(row), target, f"open-set judge{classes_label(row.classes)}")

    def _prior(self, row: RowEntry) -> Job:
        prior = self._config.prior_settings()
        if "folder" in prior:  # one's own, under any seed and for all images
            key = prior["digest"]
            return Job.of("prior", key, "of one's own", self._config.seeds[0], f"priors/{key}", [], {"prior": prior})
        settings = {"public": self._auxiliary(row.auxiliary, row), "prior": prior}
        key = digest([settings, self._seed])
        label, cost = f"{row.auxiliary} images, seed {self._seed}", float(prior["iterations"])
        return Job.of("prior", key, label, self._seed, f"priors/{key}", [self._own_images(row)], settings, cost)

    def _purify(self, row: RowEntry) -> Job:
        train = self.train(row)
        settings = {"images": train.settings["images"], "artifact": train.output, "purify": row.purify}
        key = digest([settings, self._seed])
        return Job.of("purify", key, train.label, self._seed, f"purifiers/{key}", [train], settings)

    def _service_key(self, row: RowEntry) -> str:
        """Identifies a service: rows on the same one share their queries."""
        return digest(
            [self.split(row).id, self._config.target(row, self._seed), self._config.policy(row), row.purify, row.draws]
        )

    def _predict(self, row: RowEntry) -> Job:
        split, train, service = self.split(row), self.train(row), self._service_key(row)
        needs = [split, train]
        settings: dict[str, Any] = {
            "images": split.settings["folder"],
            "artifact": train.output,
            "policy": self._config.policy(row),
            "purifier": None,
            "shares": sorted(self._shares[service]),
            "auxiliaries": {kind: self._auxiliary(kind, row) for kind in sorted(self._auxiliaries[service])},
            "draws": row.draws,
        }
        if row.purify is not None:
            purify = self._purify(row)
            needs.append(purify)
            settings["purifier"] = purify.output
        if "distinct" in self._auxiliaries[service]:
            needs.append(self._distinct(row))
        key = digest([settings, self._seed])
        cost = float(1 + len(settings["auxiliaries"]))
        return Job.of("predict", key, train.label, self._seed, f"predictions/{key}", needs, settings, cost)

    def _own_images(self, row: RowEntry) -> Job:
        """The split that the attacker's images are of."""
        return self._distinct(row) if row.auxiliary == "distinct" else self.split(row)

    def _auxiliary(self, kind: str, row: RowEntry) -> str:
        """Path of the attacker's auxiliary data."""
        if kind == "distinct":
            return f"{self._distinct(row).settings['folder']}/public.npz"
        part = {"same": "public", "generic": "generic", "training": "train"}[kind]
        return f"{self.split(row).settings['folder']}/{part}.npz"


def _title(config: FigureCampaign, row: RowEntry) -> str:
    """The name of the first figure with this row, and that of the row."""
    figure: FigureEntry = next(figure for figure, each in config.rows() if each == row)
    return f"{figure.name}: {row.name}"
