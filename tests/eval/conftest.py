"""A small run on disk: a trained target, what an attacker might have rebuilt of it, and the edge's ledger.

And a campaign on disk whose records are made up: the report is a function of records alone.
"""

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from splitleak.artifacts import write_json
from splitleak.attacker.outputs import Reconstructions
from splitleak.cli import app
from splitleak.datasets.images import Images
from splitleak.defenses.artifact import save
from splitleak.defenses.training import TargetConfig, train
from splitleak.edge.ledger import Entry, Ledger, images_digest
from splitleak.eval.record.schema import FILE, VERSION, parse_record
from splitleak.eval.record.scoring import constant_mse
from splitleak.eval.record.victims import make_record
from splitleak.eval.report.results import Results
from splitleak.graphs.user_module import export_module
from splitleak.seeding import resolve_device

BOTTLENECK = {"name": "bottleneck", "config": {}}
STACKS = {
    "Undefended": [],
    "Bottleneck": [BOTTLENECK],
    "DistCorr": [BOTTLENECK, {"name": "gaussian-noise", "config": {"sigma": 0.025}}],
    "PATROL": [BOTTLENECK, {"name": "dropout", "config": {}}],
    "Noise_Nopeek": [BOTTLENECK, {"name": "gaussian-noise", "config": {"sigma": 0.1}}],
    "Noise_ARL": [BOTTLENECK, {"name": "gaussian-noise", "config": {"sigma": 0.2}}],
    "Dropout": [BOTTLENECK, {"name": "dropout", "config": {"rate": 0.2}}],
    "ResSFL": [BOTTLENECK],
}
MADE = {"command": "splitleak", "commit": "abc123", "hardware": "abacus", "torch": "2"}


def gan_where_less_leaks(cell, figures):
    """The GAN is the stronger where both were run; the mean of the decoder, which has the leakiest too, is lower."""
    figures["mse"] = 0.05 if cell["seed"] else 0.01
    if cell["attack"] == "gan":
        figures["mse"] = 0.04
        return cell["seed"] == 1
    return None


def planned(cell):
    """A cell's job in a plan."""
    return {"id": f"cell-{cell['id']}", "kind": "cell", "label": cell["id"], "output": f"cells/{cell['id']}/score"}


ERRORS = {"Bottleneck": 0.01, "DistCorr": 0.015, "PATROL": 0.04, "Noise_Nopeek": 0.02, "Noise_ARL": 0.05}
_ALL_ERRORS = {**ERRORS, "Undefended": 0.002, "Dropout": 0.012, "ResSFL": 0.03}  # of the published tables' methods

PREDICTION_ROW = {
    "kind": "victims",
    "dataset": "images",
    "classes": None,
    "auxiliary": "same",
    "share": 0,
    "policy": {},
    "purify": None,
    "attack": "prediction-inversion",
    "target": "t",
}

CLASS_ROW = {"kind": "classes", "attack": "gmi"}
ATTACKS = {
    "kind": "classes",
    "attacks": [{"name": "GMI", "attack": "gmi"}, {"name": "PPA", "attack": "ppa"}],
    "strongest": {"losses": ["GMI"]},
}


def _target(place, design, accuracy):
    """The target of a made-up record."""
    model = {"architecture": "vgg11", "cut": 4, "width": 0.25, "channels": 1, "size": 8, "classes": 10}
    return {
        "name": place["target"],
        "digest": "0" * 12,
        "design": {"model": {**model, **design.get("model", {})}, "defenses": design.get("defenses", ())},
        "dataset": {"dataset": place["dataset"]},
        "accuracy": accuracy,
        "provenance": MADE,
    }


@pytest.fixture
def fake_record():
    """``fake_record(cell, mse, ...)``: what the judge might have written of a cell."""

    def make(
        cell,
        mse=0.02,
        *,
        ssim=0.5,
        accuracy=0.9,
        psnr=None,
        findings=None,
        values=4,
        sent=2114.0,
        constant=None,
        queries=0,
    ):
        stack = STACKS[cell["method"]] + ([{"name": "cem", "config": {}}] if cell["plus"] else [])
        target = _target(cell, {"defenses": stack}, accuracy)
        target["design"]["seed"] = cell["seed"]
        spread = {"std": 0.001, "values": [0.1] * values}
        psnr = -10 * math.log10(mse) if psnr is None else psnr
        of_large = {"ssim": {"mean": (ssim or 0) + 0.1, **spread}, "ssim_zero_padded": {"mean": ssim, **spread}}
        document = {
            "version": VERSION,
            "kind": "victims",
            "id": cell["id"],
            "cell": cell,
            "target": target,
            "attack": {
                "name": cell["attack"].rpartition(" - ")[2].split()[0],
                "findings": findings or {},
                "provenance": MADE,
            },
            "threat_model": {"sees": "features", "views": cell["views"], "queries": queries},
            "n": values,
            "constant_mse": constant,
            "scores": {
                "mse": {"mean": mse, **spread},
                "psnr": {"mean": psnr + 1, **spread},
                "batch_psnr": {"mean": psnr},
                **({} if ssim is None else of_large),
            },
            "wire": {"images": values, "bytes_per_image": sent, "accuracy": accuracy},
            "provenance": MADE,
        }
        return parse_record(document, source="fake")

    return make


@pytest.fixture
def fake_campaign(tmp_path, fake_record):
    """``fake_campaign(...)`` writes a campaign's folder and returns it.

    ``change(cell, figures)`` may alter the figures of a cell's record in place, or return False to leave it out.
    """

    def make(
        change=lambda cell, figures: None,
        *,
        methods=tuple(ERRORS),
        attacks=("decoder", "gan"),
        seeds=(0, 1),
        leakage=None,
        linkage=None,
        codecs=(),
        **config,
    ):
        folder, draw = tmp_path / "campaign", np.random.default_rng(0)
        truths = {seed: draw.integers(0, 256, (4, 1, 8, 8), dtype=np.uint8) for seed in seeds}
        cells, jobs = [], []
        for method in methods:
            for plus in (None, "CEM"):
                for attack in attacks:
                    for seed in seeds:
                        target = f"{method}{plus or ''}{seed}"
                        cells.append(
                            {
                                "id": f"{target}-{attack}",
                                "campaign": "fake",
                                "dataset": "builtin",
                                "model": "vgg",
                                "method": method,
                                "plus": plus,
                                "attack": attack,
                                "seed": seed,
                                "views": 1,
                                "target": target,
                            }
                        )
        for cell in cells:
            cell |= {"codec": codecs[cell["method"]]} if cell["method"] in codecs else {}
            figures = {
                "mse": _ALL_ERRORS[cell["method"]] + (0.002 if cell["plus"] else 0) + 0.0001 * cell["seed"],
                "ssim": 0.8 - 4 * _ALL_ERRORS[cell["method"]] - (0.02 if cell["plus"] else 0),
                "accuracy": 0.9 - (0.003 if cell["plus"] else 0),
            }
            if change(cell, figures) is False:
                continue
            score = folder / "cells" / cell["id"] / "score"
            fake_record(cell, **figures).write(score / FILE)
            rebuilt = draw.integers(0, 256, (4, 1, 8, 8), dtype=np.uint8)
            pictures = {"places": np.array([2, 0, 1, 3]), "truth": truths[cell["seed"]], "rebuilt": rebuilt}
            np.savez(score / "pictures.npz", **pictures)
            if leakage:
                write_json(folder / "leakage" / f"{cell['target']}.json", leakage(cell))
            if linkage:
                output = f"linkage/{cell['target']}-{cell.get('codec', 'fp32')}.json"
                write_json(folder / output, linkage(cell))
                jobs.append({"id": Path(output).stem, "kind": "linkage", "label": output, "output": output})
        plan = {
            "name": "fake",
            "title": "A <fake> campaign",
            "config": {
                "datasets": [{"name": "builtin", "data": "builtin"}],
                "models": [{"name": "vgg", "architecture": "vgg11", "cut": 4, "width": 0.25}],
                "attacks": [{"name": name, "attack": name.split()[0], "views": 1} for name in attacks],
                "published": "cem_s2",
                "report": {"pictures": 3},
                **config,
            },
            "cells": cells,
            "jobs": [planned(cell) for cell in cells] + jobs,
            "provenance": {**MADE, "command": "splitleak campaign run"},
        }
        write_json(folder / "campaign.json", plan)
        return folder

    return make


def _prediction(place, truth):
    """What the judge might have written of a cell of figures, as a document."""
    values = {"std": 0.1, "values": [0.5] * 40}
    error = {1: 0.03, 3: 0.02, 0: 0.01}.get(place["share"], 0.05) + 0.001 * place["seed"]
    means, classes = {"mse": error}, place["classes"] or 10
    if place["kind"] == "victims":
        means |= {"psnr": 18.0, "ssim": 0.6, "ssim_zero_padded": 0.5, "reclassified": 0.7, "batch_psnr": 17.0}
    else:
        means |= {"recognised": 0.4, "nearest_mean": 0.9, "target_confidence": 0.999}
    findings = {"mean_image_mse": 0.08, "held_out_mse": 0.02, "history": [{"loss": 1.0}] * 40}
    return {
        "version": VERSION,
        "kind": place["kind"],
        "id": place["id"],
        "cell": dict(place),
        "target": _target(place, {"model": {"classes": classes}}, 0.9),
        "attack": {"name": place["attack"], "findings": findings, "provenance": MADE},
        "threat_model": {"sees": "scores" if place["kind"] == "victims" else "nothing"},
        "n": len(truth),
        "scores": {
            name: {"mean": mean} if name == "batch_psnr" else {"mean": mean, **values} for name, mean in means.items()
        },
        "constant_mse": constant_mse(truth),
        "service": {"accuracy": 0.88, "distortion": 0.125},
        "evaluator": {"name": "E", "accuracy": 0.95},
        "provenance": MADE,
        **({} if place["kind"] == "victims" else {"chance": 1 / classes}),
    }


@pytest.fixture
def fake_predictions(tmp_path):
    """``fake_predictions(figures, ...)`` writes the folder of a campaign of predictions and returns it.

    ``figures``: by name the rows, each by name what `PREDICTION_ROW` does not say. ``change(record)`` may alter the
    document of a record in place, or return False to leave it out. Cells of one ``id`` are one.
    """

    def make(
        figures=None, change=lambda record: None, *, seeds=(0, 1), claims=(), size=8, channels=1, count=4, config=()
    ):
        folder = tmp_path / "predictions"
        figures = figures or {"truncation": {"m = 1": {"share": 1}, "m = 3": {"share": 3}}}
        cells = [
            {
                "figure": figure,
                "row": row,
                "seed": seed,
                **PREDICTION_ROW,
                **given,
                "id": f"{given.get('id', row)}-{seed}",
            }
            for figure, rows in figures.items()
            for row, given in rows.items()
            for seed in seeds
        ]
        for place in cells:
            draw = np.random.default_rng([place["seed"], place["classes"] or 10])
            truth = draw.integers(0, 256, (count, channels, size, size), dtype=np.uint8)
            record = _prediction(place, truth)
            if change(record) is False:
                continue
            out = folder / "cells" / place["id"] / "score"
            parse_record(record, source="fake").write(out / FILE)
            order = np.arange(count)[::-1]
            rebuilt = np.full_like(truth, 40 * (1 + place["seed"] % 5))
            named = {"classes" if place["kind"] == "classes" else "places": order}
            np.savez(out / "pictures.npz", truth=truth[order], rebuilt=rebuilt, **named)
        plan = {
            "name": "fake",
            "title": "Fake <predictions>",
            "config": {
                "kind": "predictions",
                "seeds": list(seeds),
                "datasets": [{"name": "images", "data": "builtin", "size": size, "channels": channels}],
                "figures": [
                    {"name": name, "title": f"Figure {name}", "note": "", "rows": [{"name": row} for row in rows]}
                    for name, rows in figures.items()
                ],
                "claims": list(claims),
                **dict(config),
            },
            "cells": cells,
            "jobs": [planned(place) for place in cells],
            "provenance": {**MADE, "command": "splitleak campaign run"},
        }
        write_json(folder / "campaign.json", plan)
        return folder

    return make


@pytest.fixture
def attacked(fake_predictions):
    """Two attacks on two targets, and one on another setting that is stronger than both."""

    def make(shares, left_out=()):
        def change(record):
            place = (record["cell"]["figure"], record["cell"]["row"], record["cell"]["seed"])
            hits = record["scores"]["recognised"] | {"mean": shares[place], "images": [[0, 1], [1, 1]]}
            record["scores"]["recognised"] = hits
            return place not in left_out

        figures = {
            name: {row: {**CLASS_ROW, "id": f"{name}-{row}"} for row in ("none", "defended")}
            for name in ("GMI", "PPA", "GMI - other people")
        }
        return Results.load(fake_predictions(figures, change, config=ATTACKS))

    return make


@pytest.fixture(scope="session")
def artifact(tmp_path_factory, small_splits):
    document = {
        "model": {"architecture": "cnn", "width": 0.5, "channels": 1, "size": 16, "classes": 10},
        "training": {"epochs": 1},
    }
    target = train(TargetConfig.parse(document, source="test"), small_splits, device=resolve_device("cpu"))
    folder = tmp_path_factory.mktemp("target") / "toy"
    save(folder, "toy", target)
    return folder


@pytest.fixture(scope="session")
def materials(tmp_path_factory, small_splits):
    """``materials(name, noise)`` writes an attack folder, victims and ledger; ids are in another order than places."""

    def make(name, noise=0.1, public=None):
        folder = tmp_path_factory.mktemp(name)
        victims = small_splits.victims
        victims.save(folder / "victims.npz")
        places = np.random.default_rng(1).permutation(len(victims)).tolist()
        ids = tuple(f"s-{place}" for place in places)
        truth = victims.select(torch.tensor(places)).floats()
        draw = torch.Generator().manual_seed(7)
        rebuilt = (truth + noise * torch.randn(truth.shape, generator=draw)).clamp(0, 1)
        Reconstructions(ids, rebuilt).save(folder / "attack" / "reconstructions.npz")
        attack = {
            "attack": "decoder",
            "config": {"epochs": 2},
            "seed": 0,
            "queries": 300,
            "draws": 1,
            "views": 1,
            "knowledge": ["labels", "public", "query"],
            "rebuilt": len(ids),
            "findings": {
                "history": [{"loss": 0.2, "held_out_mse": 0.2}, {"loss": 0.1, "held_out_mse": 0.1}],
                "held_out_mse": 0.1,
                "mean_image_mse": 0.3,
            },
            "public_hashes": (public or small_splits.public).hashes(),
            "provenance": {},
        }
        write_json(folder / "attack" / "attack.json", attack)
        costs = dict.fromkeys(("encode_us", "serialise_us", "network_us", "queue_us", "compute_us", "total_us"), 5)
        entries = [
            Entry(
                request_id=f"s-{place}",
                place=place,
                label=int(victims.labels[place]),
                predicted=0,
                sent_bytes=1000 + place,
                payload_sha256="0" * 64,
                **costs,
            )
            for place in range(len(victims))
        ]
        Ledger(entries=tuple(entries), images=images_digest(victims)).write(folder / "ledger.json")
        return folder

    return make


@pytest.fixture
def record(artifact, materials):
    """``record(out, order, noise)`` scores one cell and writes it to ``out``."""

    def make(out, order=0, noise=0.1):
        given = materials("cell", noise)
        return make_record(artifact, given / "attack", given / "victims.npz", given / "ledger.json", out, order)

    return make


@pytest.fixture(scope="session")
def campaign_run(tmp_path_factory):
    """Runs a campaign, by the text of its file, to its end by the command, and gives its folder.

    The judge is this process, all others are processes of their own.
    """

    def run(name, text):
        where = tmp_path_factory.mktemp(name)
        (where / "tiny.toml").write_text(text)
        asked = ("campaign", "run", str(where / "tiny.toml"), "--out", str(where / "run"), "--workers", "2")
        made = CliRunner().invoke(app, asked)
        assert made.exit_code == 0, made.output
        return where / "run"

    return run


@pytest.fixture(scope="session")
def embedder(tmp_path_factory):
    """The ONNX file of a network that gives the mean of each channel and each half: enough to tell `people`."""
    network = nn.Sequential(nn.AvgPool2d((4, 8)), nn.Flatten())
    path = tmp_path_factory.mktemp("onnx") / "face.onnx"
    onnx.save(export_module(network.eval(), {"image": (3, 8, 8)}), path)
    return path


@pytest.fixture
def people():
    """``people(count, each)``: pictures of so many people, each of a colour of its own with a little noise."""

    def make(count=12, each=4):
        draw = torch.Generator().manual_seed(0)
        colours = torch.rand(count, 3, 2, 1, generator=draw)
        labels = torch.arange(count).repeat(each)
        pixels = colours.repeat_interleave(4, 2).expand(-1, -1, -1, 8)[labels]
        noisy = (pixels + 0.02 * torch.randn(pixels.shape, generator=draw)).clamp(0, 1)
        return Images((255 * noisy).round().byte(), labels, tuple(map(str, range(count))))

    return make
