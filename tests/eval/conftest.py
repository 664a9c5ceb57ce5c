"""A small run on disk: a trained target, what an attacker might have rebuilt of it, and the edge's ledger."""

import numpy as np
import pytest
import torch

from attacker.results import Reconstructions
from defenses.artifact import save
from defenses.training import TargetConfig, train
from edge.ledger import Entry, Ledger
from eval.record import make_record
from splitleak.artifacts import write_json
from splitleak.seeding import resolve_device


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
        Ledger(entries=tuple(entries)).write(folder / "ledger.json")
        return folder

    return make


@pytest.fixture
def record(artifact, materials):
    """``record(out, order, noise)`` scores one cell and writes it to ``out``."""

    def make(out, order=0, noise=0.1):
        given = materials("cell", noise)
        return make_record(artifact, given / "attack", given / "victims.npz", given / "ledger.json", out, order)

    return make
