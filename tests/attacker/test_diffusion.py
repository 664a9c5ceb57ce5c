import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from splitleak.attacker.base import Run
from splitleak.attacker.diffusion import DIFFUSION, DiffusionConfig, DiffusionPrior, load_prior, train_diffusion
from splitleak.attacker.prior import Prior
from splitleak.attacker.run import Access, AttackConfig, run_attack
from splitleak.cli import app
from splitleak.config import read_document
from splitleak.defenses.artifact import load_edge
from splitleak.logs import silent

CPU = torch.device("cpu")
QUICK = DiffusionConfig(width=4, iterations=2, batch_size=4)


def test_what_was_saved_is_loaded_frozen_by_the_kind_it_says(small_splits, tiny_prior, tmp_path):
    prior = train_diffusion(QUICK, small_splits.public, Run(seed=2))
    prior.save(tmp_path / "prior")
    loaded = load_prior(tmp_path / "prior", CPU)
    assert isinstance(loaded, DiffusionPrior)
    assert (loaded.digest, loaded.image_shape) == (prior.digest, (1, 16, 16))
    assert loaded.document.public_hashes == tuple(small_splits.public.hashes())
    assert not any(weight.requires_grad for weight in loaded.denoiser.parameters())
    tiny_prior.save(tmp_path / "gan")
    assert isinstance(load_prior(tmp_path / "gan", CPU), Prior)
    with pytest.raises(FileNotFoundError, match="expected a prior"):
        load_prior(tmp_path / "none", CPU)
    about = json.loads((tmp_path / "prior" / "prior.json").read_text())
    about["denoiser"]["channels"] = 2**63
    (tmp_path / "prior" / "prior.json").write_text(json.dumps(about))
    with pytest.raises(ValueError, match=r"prior\.json: expected the sizes of a network"):
        load_prior(tmp_path / "prior", CPU)


def test_one_that_is_there_is_reused_and_other_settings_are_refused(small_splits, tmp_path):
    first, cached = DIFFUSION.cached(QUICK, small_splits.public, tmp_path / "p", Run())
    again, reused = DIFFUSION.cached(QUICK, small_splits.public, tmp_path / "p", Run())
    assert (cached, reused, again.digest) == (False, True, first.digest)
    with pytest.raises(FileExistsError, match="width"):
        DIFFUSION.cached(QUICK.model_copy(update={"width": 8}), small_splits.public, tmp_path / "p", Run())


def test_one_trained_for_an_attack_is_kept_until_the_attack_is_over(small_splits, tmp_path):
    images, run = small_splits.public.floats(), Run(checkpoint=tmp_path / "c")

    def interrupted():
        with DIFFUSION.trained_here(QUICK, images, run):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    kept = [path.name for path in tmp_path.iterdir() if path.is_dir()]
    assert len(kept) == 1
    with DIFFUSION.trained_here(QUICK, images, run):
        assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == kept
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_the_command_trains_either_kind(small_splits, tmp_path):
    small_splits.public.save(tmp_path / "public.npz")
    arguments = ["prior", str(tmp_path / "public.npz"), "--out", str(tmp_path / "prior"), "--kind", "diffusion"]
    for setting in ("width=4", "iterations=2"):
        arguments += ["--set", setting]
    said = CliRunner().invoke(app, [*arguments, "--json"])
    assert json.loads(said.stdout)["reused"] is False
    assert isinstance(load_prior(tmp_path / "prior", CPU), DiffusionPrior)


def test_a_record_tells_the_prior_and_counts_its_images_as_the_attackers(trained, small_splits, tmp_path):
    train_diffusion(QUICK, small_splits.test.select(torch.arange(4)), Run()).save(tmp_path / "prior")
    features = tmp_path / "x.npy"
    half = load_edge(trained / "toy" / "edge", CPU)
    np.save(features, half.encode(small_splits.victims.floats()[:3].numpy()))
    access = Access(
        public=trained / "public.npz", features=features, encoder=trained / "toy" / "edge", prior=tmp_path / "prior"
    )
    settings = {"decoder_epochs": 1, "strength": 0.004, "guidance": [0.5]}
    run_attack(AttackConfig(attack="drag", settings=settings), access, tmp_path / "out", CPU, silent)
    record = read_document(tmp_path / "out" / "attack.json")
    assert record["knowledge"] == ["encoder", "labels", "prior", "public"]
    assert record["prior"] == load_prior(tmp_path / "prior", CPU).digest
    assert set(small_splits.test.select(torch.arange(4)).hashes()) <= set(record["public_hashes"])
