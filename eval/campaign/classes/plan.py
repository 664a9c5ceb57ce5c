"""The jobs of a campaign of model inversion: those of its figures, and the other measures of its targets."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from splitleak.config import digest
from splitleak.eval.campaign.classes.config import ClassCampaign
from splitleak.eval.campaign.classes.target_measures import TargetMeasuresEntry, backdoor_name
from splitleak.eval.campaign.config import code_of_targets
from splitleak.eval.campaign.plan import Job, Plan
from splitleak.eval.campaign.predictions.config import RowEntry
from splitleak.eval.campaign.predictions.plan import SeedJobs, jobs_of_seeds, plan_of_seeds

Measure = Literal["target", "robustness", "training time", "extraction", "backdoor"]

_Planned = tuple[dict[str, Any], Job]
"""A job with its place among the target measures: measure and target; empty if it is only a dependency."""


def make_class_plan(config: ClassCampaign) -> Plan:
    """The jobs of ``config``, each planned once, seed by seed.

    Raises:
        FileNotFoundError: The images are missing.
    """
    all_seeds = jobs_of_seeds(config)
    plan = plan_of_seeds(config, all_seeds)
    if config.besides is None:
        return plan
    jobs, planned = {job.id: job for job in plan.jobs}, []
    for seed, seeds in zip(config.seeds, all_seeds, strict=True):
        for place, job in _of_seed(config, config.besides, seeds, seed):
            jobs.setdefault(job.id, job)
            if place:
                planned.append({**place, "seed": seed, "output": job.output})
    in_order = sorted(jobs.values(), key=lambda job: config.seeds.index(job.seed))  # stable: still topological
    return replace(plan, jobs=tuple(in_order), target_measures=tuple(planned))


def _of_seed(config: ClassCampaign, asked: TargetMeasuresEntry, seeds: SeedJobs, seed: int) -> Iterator[_Planned]:
    """The measures of all targets with their dependencies, in topological order."""
    rows = config.bare_rows()
    for row in rows:
        yield from (({}, job) for job in seeds.of_target(row))
    if asked.training_time is not None:  # the longest first, so that no worker waits for it at the end
        split = seeds.split(rows[0])
        targets = {row.name: config.target(row, seed) for row in rows}
        settings = {
            "images": split.settings["folder"],
            "targets": targets,
            "baseline": config.undefended(),
            "config": asked.timed().document(),
            **code_of_targets(targets.values()),
        }
        _, job = _measure("training time", "all targets", None, seed, [split], settings)
        yield from (({"measure": "training time", "target": row.name}, job) for row in rows)
    for row in rows:
        yield from _of_target(asked, seeds, row, seed)
        if asked.extraction is not None:
            yield from _extractions(config, asked, seeds, row, seed)


def _of_target(asked: TargetMeasuresEntry, seeds: SeedJobs, row: RowEntry, seed: int) -> Iterator[_Planned]:
    split, train = seeds.split(row), seeds.train(row)
    given = {"images": split.settings["folder"], "artifact": train.output}
    yield _measure("target", row.name, None, seed, [train], given)
    if asked.robustness is not None:
        settings = {**given, "config": asked.robust(seed).document()}
        yield _measure("robustness", row.name, None, seed, [train], settings)
    for poison in asked.poisons(seed):
        images = _poisoned(split, poison.document(), backdoor_name(poison), seed)
        backdoored = seeds.train(row, images)
        yield from (({}, job) for job in (images, backdoored))
        settings = {"images": images.settings["folder"], "artifact": backdoored.output}
        yield _measure("backdoor", row.name, backdoor_name(poison), seed, [backdoored], settings)


def _extractions(
    config: ClassCampaign, asked: TargetMeasuresEntry, seeds: SeedJobs, row: RowEntry, seed: int
) -> Iterator[_Planned]:
    assert asked.extraction is not None
    for figure, attacked in config.rows():
        if figure.name in asked.extraction.attacks and attacked.name == row.name:
            train, cell = seeds.train(row), seeds.cell(attacked)
            settings = {
                "images": train.settings["images"],
                "artifact": train.output,
                "attacked": f"cells/{cell.key}/attack",
                "config": asked.student(seed).document(),
            }
            yield _measure("extraction", row.name, figure.name, seed, [train, cell], settings)


def _measure(
    measure: Measure, target: str, of: str | None, seed: int, needs: Sequence[Job], settings: Mapping[str, Any]
) -> _Planned:
    """A measure of a target; ``of`` names the attack or the backdoor where there are several of the measure."""
    settings = {"measure": measure, **settings}
    key = digest([settings, seed])
    label = f"{measure} of {', '.join(filter(None, (target, of)))}, seed {seed}"
    job = Job.of("besides", key, label, seed, f"besides/{measure.replace(' ', '-')}-{key}.json", needs, settings)
    return {"measure": measure, "target": target, **({} if of is None else {"of": of})}, job


def _poisoned(split: Job, poison: Mapping[str, Any], name: str, seed: int) -> Job:
    settings = {"images": split.settings["folder"], "poison": poison}
    key = digest(settings)
    folder = f"images/{poison['trigger']}-s{seed}-{key}"
    settings = {**settings, "folder": folder}
    return Job.of("poison", key, f"{name}, seed {seed}", seed, f"{folder}/splits.json", [split], settings)
