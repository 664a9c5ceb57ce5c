"""Valid folders, settings and secrets, each with the file that `tests.bench.fuzz_files` damages, and how it is read."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from splitleak import eval as evaluation
from splitleak.artifacts import write_json
from splitleak.attacker.base import Knowledge, Query, Run, build
from splitleak.attacker.diffusion import DiffusionDocument, DiffusionPrior, load_prior
from splitleak.attacker.outputs import Reconstructions, described, write_result
from splitleak.attacker.rebuilders import saved_decoder
from splitleak.attacker.reconstruction import ATTACKS
from splitleak.attacker.training.denoiser import Denoiser, DenoiserConfig
from splitleak.config import read_table
from splitleak.datasets.images import Dataset, Images
from splitleak.datasets.splits import SplitConfig, Splits, split
from splitleak.defenses.artifact import load_edge, read_record, save
from splitleak.defenses.predictions.purifier import Purifier, PurifierConfig, load_purifier, save_purifier
from splitleak.defenses.training import Target, TargetConfig, assemble
from splitleak.eval.campaign.extending import read_campaign
from splitleak.eval.campaign.kinds import plan_campaign
from splitleak.eval.campaign.leases import Leases
from splitleak.eval.campaign.merging import merge
from splitleak.eval.campaign.store import Store
from splitleak.eval.deploy.deployments import deployments, read_latency, read_results
from splitleak.eval.live.truth import true_picture
from splitleak.eval.record.embedder import load_embedder
from splitleak.eval.record.scoring import load_pictures
from splitleak.eval.report.results import Results
from splitleak.eval.study.votes import score_votes
from splitleak.eval.targets.attributes import read_attributes
from splitleak.graphs.importing import NetworkConfig
from splitleak.models.export import export_onnx
from splitleak.wire.client.channel import ChannelConfig
from splitleak.wire.files.captures import CaptureWriter
from splitleak.wire.files.follow import Follower
from splitleak.wire.files.repair import join
from splitleak.wire.security import Tokens, read_beside, read_token

EVAL = Path(evaluation.__file__).parent
_CPU = torch.device("cpu")

Prepared = tuple[Path, Callable[[], object]]  # the file that may be damaged, and how all of it is read


def half(folder: Path) -> Prepared:
    """What an artifact's half says of itself."""
    return _artifact(folder) / "edge" / "half.json", lambda: load_edge(folder / "target" / "edge", _CPU)


def half_weights(folder: Path) -> Prepared:
    """An artifact's half."""
    return _artifact(folder) / "edge" / "weights.safetensors", lambda: load_edge(folder / "target" / "edge", _CPU)


def artifact(folder: Path) -> Prepared:
    """What a training says of its artifact."""
    return _artifact(folder) / "artifact.json", lambda: read_record(folder / "target")


def _artifact(folder: Path) -> Path:
    network = {"architecture": "cnn", "width": 0.25, "channels": 1, "size": 8, "classes": 2}
    defenses = [{"name": "gaussian-noise"}]
    config = TargetConfig.model_validate({"model": network, "defenses": defenses, "training": {"epochs": 1}, "seed": 0})
    model, stack = assemble(config, "d")
    save(folder / "target", "target", Target(config, ("cat", "dog"), "d", model.eval(), stack, {"accuracy": 0.5}))
    return folder / "target"


def purifier(folder: Path) -> Prepared:
    """A purifier's sizes."""
    made = Purifier(3, PurifierConfig())
    save_purifier(folder / "purifier", made, {})
    return folder / "purifier" / "purifier.json", lambda: load_purifier(folder / "purifier")


def diffusion(folder: Path) -> Prepared:
    """What a diffusion prior says of itself."""
    return _diffusion(folder) / "prior.json", lambda: load_prior(folder / "prior", _CPU)


def denoiser(folder: Path) -> Prepared:
    """A diffusion prior's network."""
    return _diffusion(folder) / "denoiser.safetensors", lambda: load_prior(folder / "prior", _CPU)


def _diffusion(folder: Path) -> Path:
    config = DenoiserConfig(channels=1, height=8, wide=8, width=8)
    document = DiffusionDocument(format=1, kind="diffusion", denoiser=config)
    DiffusionPrior(document, Denoiser(config)).save(folder / "prior")
    return folder / "prior"


def decoder(folder: Path) -> Prepared:
    """What an attack says of the decoder that it has trained."""
    return _attack(folder) / "attack.json", lambda: saved_decoder(folder / "attack")


def decoder_weights(folder: Path) -> Prepared:
    """The decoder that an attack has trained."""
    return _attack(folder) / "weights.safetensors", lambda: saved_decoder(folder / "attack")


def _attack(folder: Path) -> Path:
    attack = build(ATTACKS, "decoder", "cpu", {"epochs": 1, "channels": 4, "blocks": 1})
    images = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    known = Knowledge(images[:2], (1, 16, 16), public=images, query=Query(lambda sent: sent))
    made = Reconstructions(("a", "b"), attack(known, Run()))
    public = Images((images * 255).to(torch.uint8), torch.zeros(4, dtype=torch.int64), ("x",))
    write_result(folder / "attack", attack, made, known, described(attack, known, public, seed=0, views=1))
    return folder / "attack"


def attributes(folder: Path) -> Prepared:
    """Attributes of pictures, by their places."""
    splits = _splits()
    path = folder / "attributes.csv"
    path.write_text("set,index,glasses,age\npublic,0,yes,old\npublic,3,no,young\nvictims,4,yes,\n")
    return path, lambda: read_attributes(path, splits)


def attribute_files(folder: Path) -> Prepared:
    """Attributes of pictures, by their files."""
    splits = _splits()
    for place in range(2):
        Image.fromarray(splits.public.pixels[place, 0].numpy()).save(folder / f"{place}.png")
    path = folder / "attributes.csv"
    path.write_text("file,glasses\n0.png,yes\n1.png,no\n")
    return path, lambda: read_attributes(path, splits)


def _splits() -> Splits:
    pixels = torch.arange(40, dtype=torch.uint8).view(-1, 1, 1, 1).repeat(1, 1, 8, 8)
    return split(Dataset("d", Images(pixels, torch.arange(40) % 2, ("a", "b")), None), SplitConfig(public=5, victims=5))


def embedder(folder: Path) -> Prepared:
    """A network from pictures to vectors, a stranger's."""
    path = folder / "embedder.onnx"
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 3))
    export_onnx(module.eval(), (1, 8, 8), path)
    return path, lambda: load_embedder(path, NetworkConfig(), (1, 8, 8))


def extends(folder: Path) -> Prepared:
    """The file of a campaign that builds on another, and its plan."""
    (folder / "base.toml").write_bytes((EVAL / "campaigns" / "demo.toml").read_bytes())
    path = folder / "campaign.toml"
    path.write_text('name = "x"\nseeds = [1]\n[extends]\nfile = "base.toml"\nwithout = ["title"]\n')
    return path, lambda: plan_campaign(read_campaign(path), str(path))


def plan(folder: Path) -> Prepared:
    """The plan in a campaign's folder, as its progress and its report read it."""
    made = plan_campaign(read_table(EVAL / "campaigns" / "demo.toml"), "demo")
    Store(folder).write_plan(made)
    return folder / "campaign.json", lambda: (Store(folder).status(), Results.load(folder))


def lease(folder: Path) -> Prepared:
    """Who is at a job."""
    path = folder / "leases" / "cell-1.1"
    (path.parent / "alive").mkdir(parents=True)
    path.write_text("shard.host.1.abc")
    (path.parent / "alive" / "shard.host.1.abc").write_text("1")

    def read() -> object:
        leases = Leases(folder, "reader")
        taken = leases.take("cell-1")
        leases.give_back("cell-1")
        return taken

    return path, read


def sign(folder: Path) -> Prepared:
    """The sign of life of who is at a job."""
    lease(folder)
    return folder / "leases" / "alive" / "shard.host.1.abc", lambda: Leases(folder, "reader").take("cell-1")


def merged(folder: Path) -> Prepared:
    """A record of a shard's, beside that of another."""
    line = (EVAL / "results" / "cem_small" / "records.jsonl").read_text().splitlines()[0]
    made = plan_campaign(read_table(EVAL / "campaigns" / "demo.toml"), "demo")
    score = next(job.output for job in made.jobs if job.kind == "cell")
    for shard in ("a", "b"):
        (folder / shard / score).parent.mkdir(parents=True)
        (folder / shard / score).parent.joinpath("record.json").write_text(line)
    Store(folder / "a").write_plan(made)
    shutil.copy(folder / "a" / "campaign.json", folder / "b")

    def read() -> object:
        shutil.rmtree(folder / "out", ignore_errors=True)
        return merge(folder / "out", [folder / "a", folder / "b"])

    return (folder / "b" / score).parent / "record.json", read


def timed(folder: Path) -> Prepared:
    """What a latency sweep measured, beside records of attacks."""
    measured = read_results([EVAL / "results" / "codecs_small"])
    about = {
        "way": "split",
        "window": 1,
        "link": "loopback",
        "batch": 1,
        "edge_engine": "onnx",
        "cloud_engine": "torch",
    }
    parts = {"total_ms": {"p50": 3.0, "p95": 4.0}}
    cells = [
        {**about, "target": measured[0].target, "codec": codec, "bytes_per_image": 9.0, "parts": parts}
        for codec in ("fp32", "fp16")
    ]
    write_json(folder / "latency.json", {"cells": cells, "emulated_device": None})
    path = folder / "latency.json"

    def read() -> object:
        latency = read_latency(path)
        links = [cell["link"] for cell in latency["cells"] if cell["way"] == "split"]
        return deployments(measured, latency, next(iter(links), None))  # which of several is a user's to say

    return path, read


def truth(folder: Path) -> Prepared:
    """The pictures that a live page shows beside what was rebuilt."""
    path = folder / "victims.npz"
    np.savez(path, images=np.zeros((3, 8, 8), np.uint8), labels=np.arange(3))
    return path, lambda: true_picture(path)("00000000-1")


def judged(folder: Path) -> Prepared:
    """The pictures that a judge wrote."""
    path = folder / "pictures.npz"
    np.savez(path, places=np.arange(2), truth=np.zeros((2, 1, 8, 8), "u1"), rebuilt=np.ones((2, 1, 8, 8), "u1"))
    return path, lambda: load_pictures(folder)


def votes(folder: Path) -> Prepared:
    """What a voter chose."""
    return _study(folder)[0], lambda: score_votes([folder / "votes.json"], folder / "page.key.json")


def key(folder: Path) -> Prepared:
    """Which side was whose."""
    return _study(folder)[1], lambda: score_votes([folder / "votes.json"], folder / "page.key.json")


def _study(folder: Path) -> tuple[Path, Path]:
    chosen = [{"pair": 0, "choice": "left"}, {"pair": 1, "choice": None}]
    write_json(folder / "votes.json", {"study": "s", "voter": "v", "votes": chosen})
    pairs = [{"pair": place, "label": 3, "turn": 0, "left": side} for place, side in enumerate("ab")]
    write_json(folder / "page.key.json", {"study": "s", "a": {}, "b": {}, "seed": 0, "pairs": pairs})
    return folder / "votes.json", folder / "page.key.json"


def tokens(folder: Path) -> Prepared:
    """The clients of a service."""
    write_json(folder / "tokens.json", {"edge": "0" * 64, "tap": "1" * 64})
    return folder / "tokens.json", lambda: Tokens.read(folder / "tokens.json")


def token(folder: Path) -> Prepared:
    """A client's token."""
    path = folder / "token"
    path.write_text("abcdefghijklmnopqrstuvwxyz012345\n")
    path.chmod(0o600)
    return path, lambda: read_token(path)


def channel(folder: Path) -> Prepared:
    """How a server is reached."""
    path = folder / "channel.toml"
    path.write_text('timeout_s = 3.0\ntoken_file = "token"\n[tls]\nca = "ca.pem"\n')
    return path, lambda: ChannelConfig.parse(read_beside(path), source=str(path))


def followed(folder: Path) -> Prepared:
    """A capture that a live page follows."""
    path = folder / "tap.capture"
    with CaptureWriter(path) as writer:
        for call in range(3):
            writer.write("/a/b", call, "request", bytes(range(60)))

    def read() -> object:
        with Follower(path) as follower:
            return [follower.read(mark) for mark in follower.poll()]

    return path, read


def salvaged(folder: Path) -> Prepared:
    """A damaged capture of which all is taken that is whole."""
    path, _ = followed(folder)

    def read() -> object:
        (folder / "whole.capture").unlink(missing_ok=True)
        return join([path], folder / "whole.capture", salvage=True)

    return path, read


FOLDERS: dict[str, Callable[[Path], Prepared]] = {
    made.__name__: made
    for made in (
        half,
        half_weights,
        artifact,
        purifier,
        diffusion,
        denoiser,
        decoder,
        decoder_weights,
        attributes,
        attribute_files,
        embedder,
        extends,
        plan,
        lease,
        sign,
        merged,
        timed,
        truth,
        judged,
        votes,
        key,
        tokens,
        token,
        channel,
        followed,
        salvaged,
    )
}
