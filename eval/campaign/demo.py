"""The demo: the whole chain on the built-in images, every role a process of its own."""

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from pydantic import Field
from rich.console import Console

from splitleak.artifacts import write_json
from splitleak.attacker.run import AttackConfig
from splitleak.config import Config, digest, read_document
from splitleak.datasets.splits import SplitConfig
from splitleak.defenses.artifact import read_record
from splitleak.eval.campaign.processes import Service, run, service
from splitleak.eval.report.run_report import write_report

_START_S = 60.0
_STREAM_S = 120.0

Say = Callable[[str], None]
"""Tells the user what happens next."""


class DemoTarget(Config):
    """One target: its name, and the defenses it is trained under."""

    name: str
    defenses: tuple[dict[str, Any], ...]


class DemoConfig(Config):
    """The demo's file: what all targets share, the targets, and the attack."""

    pictures: int = Field(ge=1)
    split: SplitConfig
    model: dict[str, Any]
    training: dict[str, Any]
    attack: dict[str, Any]
    targets: tuple[DemoTarget, ...]


def run_demo(out: Path, seed: int) -> Path:
    """Runs what is not done yet below ``out``, and returns the path of the report.

    Raises:
        RuntimeError: One of the processes failed; it has said why.
    """
    with as_file(files("splitleak.eval") / "campaigns" / "demo.toml") as path:
        config = DemoConfig.read(path)
    console = Console(stderr=True)

    def say(text: str) -> None:
        console.print(f"[bold]» {text}[/bold]", highlight=False, soft_wrap=True)

    images = out / "images"
    _split(images, config.split, seed, say)
    for target in config.targets:
        say(f"target {target.name}: train")
        _train(out, target, config, images, seed)
    for order, target in enumerate(config.targets):
        _attack(out, order, target, config, images, seed, say)
    _latency(out, [_artifact(out, target) for target in config.targets], say)
    report = out / "report.html"
    write_report(out, report, title="splitleak demo", pictures=config.pictures)
    return report


def _artifact(out: Path, target: DemoTarget) -> Path:
    return out / "targets" / target.name


def _split(images: Path, config: SplitConfig, seed: int, say: Say) -> None:
    wanted = {**config.document(), "seed": seed}
    record = images / "splits.json"
    if record.exists() and read_document(record)["config"] == wanted:
        return
    say("split the built-in images: training, public, victims, test")
    arguments = [f"--{part}={wanted[part]}" for part in ("public", "victims", "train", "test") if wanted[part]]
    run(["split", "--out", str(images), "--seed", str(seed), *arguments])


def _train(out: Path, target: DemoTarget, config: DemoConfig, images: Path, seed: int) -> None:
    document = {"model": config.model, "training": config.training, "defenses": target.defenses}
    settings = out / "targets" / f"{target.name}.json"
    write_json(settings, document)
    artifact = _artifact(out, target)
    run(["train", "--out", str(artifact), "--images", str(images), "--config", str(settings), "--seed", str(seed)])


def _attack(
    out: Path,
    order: int,
    target: DemoTarget,
    config: DemoConfig,
    images: Path,
    seed: int,
    say: Say,
) -> None:
    """Cloud, tap and edge as services; the victims' stream; then the attacker, who knows the public images alone."""
    artifact, cell = _artifact(out, target), out / "cells" / target.name
    made, done = read_record(artifact), cell / "done.json"
    attacked = AttackConfig(**config.attack, seed=seed).build().config.document()
    key = {"key": digest([made["target"], made["dataset"], made["provenance"]["time"], config.attack, attacked, seed])}
    if done.exists() and read_document(done) == key:
        return
    done.unlink(missing_ok=True)
    capture, ledger = cell / "tap.capture", cell / "ledger.json"
    capture.unlink(missing_ok=True)
    anywhere = "127.0.0.1:0"
    with ExitStack() as stack:

        def start(*arguments: str) -> Service:
            return stack.enter_context(service(arguments, cell / f"{arguments[0]}.log"))

        say(f"target {target.name}: start cloud, tap and edge; stream the victims' images")
        computing = ("--engine", "torch", "--threads", "1")
        cloud = start("cloud", str(artifact / "cloud"), "--listen", anywhere, *computing)
        address = cloud.wait_for("listening", _START_S)["address"]
        tap = start("tap", "--upstream", address, "--capture", str(capture), "--listen", anywhere)
        address = tap.wait_for("listening", _START_S)["address"]
        victims = ("--images", str(images / "victims.npz"), "--ledger", str(ledger), "--noise-seed", str(seed))
        half = str(artifact / "edge")
        edge = start("edge", half, "--cloud", address, "--listen", anywhere, *computing, *victims)
        edge.wait_for("streamed", _STREAM_S)
        address = edge.wait_for("listening", _START_S)["address"]
        say(f"target {target.name}: attack")
        settings = cell / "attack-settings.json"
        attack = dict(config.attack)
        write_json(settings, attack.pop("settings", {}))
        run(
            [
                *("attack", "--capture", str(capture), "--public", str(images / "public.npz"), "--edge", address),
                *("--out", str(cell / "attack"), "--config", str(settings), "--seed", str(seed)),
                *(f"--{name}={value}" for name, value in attack.items()),
            ]
        )
    truth = ("--truth", str(images / "victims.npz"), "--ledger", str(ledger), "--order", str(order))
    run(["score", "--artifact", str(artifact), "--attack", str(cell / "attack"), *truth, "--out", str(cell / "score")])
    write_json(done, key)


def _latency(out: Path, artifacts: Sequence[Path], say: Say) -> None:
    path = out / "latency.json"
    names = json.dumps([read_record(artifact)["provenance"]["time"] for artifact in artifacts])
    done = out / "cells" / "latency-of.json"
    if path.exists() and done.exists() and read_document(done) == names:
        return
    say("measure latency, the three targets in turn")
    run(["latency", *map(str, artifacts), "--no-alternatives", "--out", str(path)])
    write_json(done, names)
