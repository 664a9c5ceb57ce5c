"""The jobs of a campaign against classes: those of its figures, and what is measured of its targets beside them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from splitleak.config import digest
from splitleak.eval.campaign.classes.config import ClassCampaign
from splitleak.eval.campaign.classes.target_measures import BesidesEntry, backdoor_name
from splitleak.eval.campaign.plan import Job, Plan
from splitleak.eval.campaign.predictions.config import RowEntry
from splitleak.eval.campaign.predictions.plan import SeedJobs, plan_of_seeds

Measure = Literal["target", "robustness", "training time", "extraction", "backdoor"]


def make_class_plan(config: ClassCampaign) -> Plan:
    """The jobs of ``config``, each once; those of a seed after those of the seed before.

    Raises:
        FileNotFoundError: The images are not there.
    """
    made = [SeedJobs(config, seed) for seed in config.seeds]
    plan = plan_of_seeds(config, made)
    if config.besides is None:
        return plan
    jobs, planned = {job.id: job for job in plan.jobs}, []
    for seed, seeds in zip(config.seeds, made, strict=True):
        for place, job in _of_seed(config, config.besides, seeds, seed):
            jobs.setdefault(job.id, job)
            if place:
                planned.append({**place, "seed": seed, "output": job.output})
    in_order = sorted(jobs.values(), key=lambda job: config.seeds.index(job.seed))  # stable: needs stay first
    return replace(plan, jobs=tuple(in_order), besides_in_order=tuple(planned))


def _of_seed(
    config: ClassCampaign, asked: BesidesEntry, seeds: SeedJobs, seed: int
) -> Iterator[tuple[dict[str, Any], Job]]:
    """Each job and what it measures of which target; what a job needs comes before it, and measures nothing."""
    rows = config.bare_rows()
    for row in rows:
        yield from (({}, job) for job in seeds.of_target(row))
    if asked.training_time is not None:  # the longest first, so that no worker waits for it at the end
        split = seeds.split(rows[0])
        settings = {
            "images": split.settings["folder"],
            "targets": {row.name: config.target(row, seed) for row in rows},
            "baseline": config.undefended(),
            "config": asked.timed().document(),
        }
        job = _measure("training time", "all targets", seed, [split], settings)
        yield from (({"measure": "training time", "target": row.name}, job) for row in rows)
    for row in rows:
        yield from _of_target(asked, seeds, row, seed)
        if asked.extraction is not None:
            yield from _extractions(config, asked, seeds, row, seed)


def _of_target(asked: BesidesEntry, seeds: SeedJobs, row: RowEntry, seed: int) -> Iterator[tuple[dict[str, Any], Job]]:
    split, train = seeds.split(row), seeds.train(row)
    given = {"images": split.settings["folder"], "artifact": train.output}
    yield {"measure": "target", "target": row.name}, _measure("target", row.name, seed, [train], given)
    if asked.robustness is not None:
        settings = {**given, "config": asked.robust(seed).document()}
        yield (
            {"measure": "robustness", "target": row.name},
            _measure("robustness", row.name, seed, [train], settings),
        )
    for poison in asked.poisons(seed):
        images = _poisoned(split, poison.document(), backdoor_name(poison), seed)
        opened = seeds.train(row, images)
        yield from (({}, job) for job in (images, opened))
        settings = {"images": images.settings["folder"], "artifact": opened.output}
        yield (
            {"measure": "backdoor", "target": row.name, "of": backdoor_name(poison)},
            _measure("backdoor", f"{row.name}, {backdoor_name(poison)}", seed, [opened], settings),
        )


def _extractions(
    config: ClassCampaign, asked: BesidesEntry, seeds: SeedJobs, row: RowEntry, seed: int
) -> Iterator[tuple[dict[str, Any], Job]]:
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
            yield (
                {"measure": "extraction", "target": row.name, "of": figure.name},
                _measure("extraction", f"{row.name}, {figure.name}", seed, [train, cell], settings),
            )


def _measure(measure: Measure, what: str, seed: int, needs: Sequence[Job], settings: Mapping[str, Any]) -> Job:
    whole = {"measure": measure, **settings}
    key = digest([whole, seed])
    output = f"besides/{measure.replace(' ', '-')}-{key}.json"
    label, ids = f"{measure} of {what}, seed {seed}", tuple(need.id for need in needs)
    return Job(f"besides-{key}", "besides", label, seed, output, ids, 1.0, whole)


def _poisoned(split: Job, poison: Mapping[str, Any], name: str, seed: int) -> Job:
    settings = {"images": split.settings["folder"], "poison": poison}
    key = digest(settings)
    folder = f"images/{poison['trigger']}-s{seed}-{key}"
    whole = {**settings, "folder": folder}
    return Job(
        f"poison-{key}", "poison", f"{name}, seed {seed}", seed, f"{folder}/splits.json", (split.id,), 1.0, whole
    )
