"""Attacks on victims and on classes as the commands run them, with a real edge, tap and cloud in this process."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from splitleak.artifacts import load_tensors
from splitleak.attacker.base import Run
from splitleak.attacker.class_inversion import CLASS_ATTACKS
from splitleak.attacker.class_inversion.base import ClassInversion
from splitleak.attacker.outputs import Reconstructions
from splitleak.attacker.prior import PriorConfig, train_prior
from splitleak.attacker.queries import EdgeProbe, Pairs, ServiceProbe
from splitleak.attacker.reconstruction import ATTACKS
from splitleak.attacker.reconstruction.descent import public_features
from splitleak.attacker.run import Access, AttackConfig, record_queries, run_attack
from splitleak.cli import app
from splitleak.cloud.policy import PolicyConfig
from splitleak.cloud.service import CloudConfig, cloud
from splitleak.config import Config, digest, read_document
from splitleak.datasets.files import load_file
from splitleak.datasets.images import Images
from splitleak.defenses.artifact import load_cloud, load_edge, load_whole, save
from splitleak.defenses.features.quantisation import Quantisation
from splitleak.defenses.importing import import_network
from splitleak.defenses.stack import Stack
from splitleak.defenses.training import TargetConfig, train
from splitleak.edge.sharing import SharingConfig, share_predictions
from splitleak.eval.record.schema import FeaturesPlace, load_record
from splitleak.eval.record.scoring import truth_of
from splitleak.logs import silent
from splitleak.wire.files.captures import CaptureWriter
from splitleak.wire.files.shared import SharedScores
from tests.splitleak.graphs.test_network import Residual, network

CPU = torch.device("cpu")
QUICK = {"epochs": 1, "channels": 8, "blocks": 1, "draws": 2}
FEW_STEPS = {"steps": 2}


def config(**changes):
    return AttackConfig(**{"attack": "decoder", "settings": QUICK, **changes})


def attack(deployed, out, asked=None, **given):
    access = Access(capture=deployed.capture, public=deployed.public, **(given or {"edge": deployed.edge}))
    return run_attack(asked or config(), access, out, CPU, silent)


@pytest.mark.slow
def test_another_attack_replaces_a_result_with_force_alone_and_what_is_no_result_never(deployed, tmp_path):
    out, access = tmp_path / "out", Access(capture=deployed.capture, public=deployed.public, edge=deployed.edge)
    attack(deployed, out)
    before = (out / "attack.json").read_bytes()
    with pytest.raises(FileExistsError, match=r"it has seed 0 and not 1; --force replaces it"):
        attack(deployed, out, config(seed=1))
    assert (out / "attack.json").read_bytes() == before
    run_attack(config(seed=1), access, out, CPU, silent, force=True)
    assert json.loads((out / "attack.json").read_text())["seed"] == 1
    np.save(tmp_path / "other.npy", access.knowledge(config(), access.images(), CPU)[1].captured[:20].numpy())
    other = Access(features=tmp_path / "other.npy", public=deployed.public, encoder=deployed.folder / "toy" / "edge")
    with pytest.raises(FileExistsError, match=r"--force replaces it"):
        run_attack(config(seed=1), other, out, CPU, silent)
    (out / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"got one with notes\.txt"):
        run_attack(config(seed=1), access, out, CPU, silent, force=True)
    assert (out / "notes.txt").read_text() == "mine"


def test_an_attack_goes_on_from_the_state_of_its_own_problem_alone(deployed, tmp_path, monkeypatch):
    """Interrupted, and asked for again with the same models and then with another encoder."""
    states = []

    def interrupted(_, known, run):
        states.append((run.checkpoint, run.checkpoint.exists()))
        run.checkpoint.write_text("state")
        raise KeyboardInterrupt

    monkeypatch.setattr(ATTACKS["linear"], "reconstruct", interrupted)
    for edge in ("a", "a", "b"):
        monkeypatch.setattr(Access, "models", lambda _, given=edge: {"edge": given})
        with pytest.raises(KeyboardInterrupt):
            attack(deployed, tmp_path / "out", AttackConfig(attack="linear"), edge=deployed.edge)
    (first, fresh), (again, there), (other, empty) = states
    assert first == again != other
    assert (fresh, there, empty) == (False, True, False)
    assert [path.name for path in tmp_path.glob(".out.checkpoint*")] == [other.name]


def test_recorded_queries_are_replaced_by_those_of_the_same_kind(deployed, tmp_path):
    record(deployed, tmp_path / "pairs.npz")
    record(deployed, tmp_path / "pairs.npz")
    with pytest.raises(FileExistsError, match="expected recorded queries with these images, draws and views"):
        record(deployed, tmp_path / "pairs.npz", draws=2)
    record(deployed, tmp_path / "pairs.npz", draws=2, force=True)
    assert len(Pairs.load(tmp_path / "pairs.npz").features) == 2


def test_a_record_is_replaced_by_the_same_queries_alone(deployed, tmp_path):
    whole, part = tmp_path / "whole.npz", tmp_path / "part.npz"
    record(deployed, whole)
    with pytest.raises(FileExistsError, match="expected recorded queries with these images"):
        record(deployed, whole, budget=100)
    assert len(Pairs.load(whole).hashes) > 100
    record(deployed, part, budget=100)
    record(deployed, part, budget=100)
    replace(Pairs.load(part), asked="a service of toy").save(part)
    with pytest.raises(FileExistsError, match=r"to an edge of toy \(any, with --force\)"):
        record(deployed, part, budget=100)
    replace(Pairs.load(part), asked="").save(part)  # as older ones are
    record(deployed, part, budget=100)


def record(deployed, out, **changes):
    options = {"draws": 1, "views": 1, "budget": None, **changes}
    probe = EdgeProbe(deployed.edge, deployed.capture, "toy")
    return record_queries(probe, deployed.public, out, **options)


class Asked:
    """A probe that answers with zeros, once it has done ``meanwhile``."""

    prefix = ""

    def __init__(self, asked="a toy", meanwhile=lambda: None):
        self.asked, self.meanwhile = asked, meanwhile

    def __call__(self, images, *, draws=1, averaging=1):
        self.meanwhile()
        return torch.zeros(draws, len(images), 2)


def test_no_two_processes_record_queries_to_one_file(deployed, tmp_path):
    def other():
        once = {"draws": 1, "views": 1, "budget": None}
        with ThreadPoolExecutor(1) as pool:
            pool.submit(record_queries, Asked(), deployed.public, tmp_path / "pairs.npz", **once).result()

    with pytest.raises(BlockingIOError, match=r"expected to be alone in writing .*pairs\.npz"):
        record_queries(Asked(meanwhile=other), deployed.public, tmp_path / "pairs.npz", draws=1, views=1, budget=None)


@pytest.mark.slow
def test_an_attack_leaves_one_image_for_each_captured_victim_and_says_how(deployed, tmp_path, small_splits):
    made = attack(deployed, tmp_path / "out", config(seed=3))
    assert made["folder"] == str(tmp_path / "out")
    assert "history" not in made["findings"]
    assert set(Reconstructions.load(tmp_path / "out" / "reconstructions.npz").ids) == set(deployed.ledger.places)
    found = json.loads((tmp_path / "out" / "attack.json").read_text())
    assert found["queries"] == 2 * len(small_splits.public) + 8  # the edge draws noise, as eight answers showed
    assert (found["seed"], found["draws"], found["asked"], found["views"]) == (3, 1, 2, 1)
    assert found["knowledge"] == ["labels", "public", "query"]
    assert found["config"]["epochs"] == 1
    assert found["public_hashes"] == small_splits.public.hashes()
    assert found["findings"]["chosen_epoch"] == 1
    assert (tmp_path / "out" / "weights.safetensors").exists()
    assert {"command", "commit", "hardware", "time"} <= found["provenance"].keys()


def test_an_attack_tells_of_its_captures_gaps_and_binds_what_it_rebuilt_to_all_its_images(deployed, tmp_path):
    record(deployed, tmp_path / "pairs.npz")
    asked = config()
    attack(deployed, tmp_path / "whole", asked, pairs=tmp_path / "pairs.npz")
    document = read_document(tmp_path / "whole" / "attack.json")
    assert "capture" not in document
    rebuilt = Reconstructions.load(tmp_path / "whole" / "reconstructions.npz")
    assert rebuilt.public == digest(sorted(document["public_hashes"]))
    shutil.copy(deployed.capture, tmp_path / "gaps.capture")
    with CaptureWriter(tmp_path / "gaps.capture", max_bytes=1) as writer:
        for number in range(3):
            writer.write("/toy/Echo", number, "request", b"lost")
    access = Access(capture=tmp_path / "gaps.capture", public=deployed.public, pairs=tmp_path / "pairs.npz")
    run_attack(asked, access, tmp_path / "gaps", CPU, silent)
    assert read_document(tmp_path / "gaps" / "attack.json")["capture"] == {"gaps": 2, "lost": 3}


@pytest.mark.slow
def test_an_attack_on_recorded_queries_repeats_to_the_bit_and_says_what_they_cost(deployed, tmp_path, small_splits):
    told = record(deployed, tmp_path / "pairs.npz", draws=2)
    queries = 2 * len(small_splits.public)
    assert told["queries"] == Pairs.load(tmp_path / "pairs.npz").queries == queries
    size = deployed.capture.stat().st_size
    rebuilt = []
    for name in ("one", "two"):
        attack(deployed, tmp_path / name, config(settings={**QUICK, "epochs": 2}), pairs=tmp_path / "pairs.npz")
        rebuilt.append(Reconstructions.load(tmp_path / name / "reconstructions.npz"))
        found = json.loads((tmp_path / name / "attack.json").read_text())
        assert (found["queries"], found["draws"]) == (queries, 2)
    assert rebuilt[0].ids == rebuilt[1].ids
    assert torch.equal(rebuilt[0].images, rebuilt[1].images)
    assert deployed.capture.stat().st_size == size


@pytest.mark.slow
def test_an_attacker_may_ask_about_mirror_images_too_and_pays_for_them(deployed, tmp_path, small_splits):
    record(deployed, tmp_path / "plain.npz")
    told = record(deployed, tmp_path / "pairs.npz", mirrored=True)
    assert told["queries"] == told["images"] == 2 * len(small_splits.public)
    mirrored = {"mirrored": True, "pairs": tmp_path / "pairs.npz"}
    attack(deployed, tmp_path / "out", config(settings={**QUICK, "epochs": 1}), **mirrored)
    found = json.loads((tmp_path / "out" / "attack.json").read_text())
    assert found["public_hashes"] == small_splits.public.with_mirrors().hashes()
    assert found["queries"] == 2 * len(small_splits.public)
    attack(
        deployed,
        tmp_path / "no",
        config(settings={**QUICK, "epochs": 1}),
        **{**mirrored, "pairs": tmp_path / "plain.npz"},
    )
    found = json.loads((tmp_path / "no" / "attack.json").read_text())
    assert found["queries"] == len(small_splits.public)  # those that are on record


@pytest.mark.slow
def test_an_attacker_that_sees_each_image_often_has_better_features(deploy, tmp_path, small_splits):
    with deploy(tmp_path, repeat=4) as chain:
        record(chain, tmp_path / "pairs.npz", views=4)
        access = Access(capture=chain.capture, public=chain.public, pairs=tmp_path / "pairs.npz")
        ids, known = access.knowledge(config(views=4), small_splits.public, CPU)
        attack(chain, tmp_path / "out", config(views=4), pairs=tmp_path / "pairs.npz")
    truth = truth_of(ids, chain.ledger, small_splits.victims)
    assert torch.equal(truth.pixels, small_splits.victims.pixels)
    with torch.no_grad():
        for images, features in ((truth, known.captured), (small_splits.public, known.query(known.public))):
            assert (features - chain.half.encoder(images.floats())).std() == pytest.approx(0.05 / 2, rel=0.1)
    assert Reconstructions.load(tmp_path / "out" / "reconstructions.npz").ids == ids
    assert json.loads((tmp_path / "out" / "attack.json").read_text())["views"] == 4


def test_pairs_of_other_views_or_other_images_are_refused(deployed, tmp_path):
    record(deployed, tmp_path / "pairs.npz", views=2)
    with pytest.raises(ValueError, match=r"pairs\.npz: expected pairs of 1 views, as the victims', got 2"):
        attack(deployed, tmp_path / "out", pairs=tmp_path / "pairs.npz")
    access = Access(capture=deployed.capture, public=deployed.folder / "victims.npz", pairs=tmp_path / "pairs.npz")
    with pytest.raises(ValueError, match=r"expected queries with the images of .*victims\.npz"):
        run_attack(config(views=2), access, tmp_path / "out", CPU, silent)


def test_an_edge_and_pairs_together_are_refused(deployed, tmp_path):
    with pytest.raises(ValueError, match=r"expected one way to query: .*, got edge and pairs"):
        attack(deployed, tmp_path / "out", edge=deployed.edge, pairs=tmp_path / "pairs.npz")


@pytest.mark.parametrize("limit", ["max_queries", "draws"])
def test_what_bounds_queries_is_refused_where_nobody_is_asked(deployed, tmp_path, limit):
    with pytest.raises(ValueError, match=f"expected a way to query beside {limit}, got none"):
        attack(deployed, tmp_path / "out", config(**{limit: 2}), encoder=deployed.folder)


def test_an_attack_that_queries_is_refused_without_an_edge(deployed, tmp_path):
    access = Access(capture=deployed.capture, public=deployed.public)
    with pytest.raises(PermissionError, match="'decoder' needs 'query', which this threat model withholds"):
        run_attack(config(), access, tmp_path / "out", CPU, silent)


def test_no_query_is_sent_over_the_budget(deployed, tmp_path):
    made = attack(deployed, tmp_path / "out", config(max_queries=100))
    assert made["queries"] == 100
    assert len(Reconstructions.load(tmp_path / "out" / "reconstructions.npz").ids) == len(deployed.ledger.places)


def test_an_edge_that_is_asked_live_is_asked_as_often_for_each_image_as_was_said(deployed, tmp_path, small_splits):
    """It was asked once, whatever was said, and the threat model told one draw."""
    asked = AttackConfig(attack="nearest", draws=3)
    made = attack(deployed, tmp_path / "out", asked)
    assert made["queries"] == 3 * len(small_splits.public)
    assert json.loads((tmp_path / "out" / "attack.json").read_text())["asked"] == 3
    limited = attack(deployed, tmp_path / "limited", asked.model_copy(update={"max_queries": 100}))
    assert limited["queries"] == 99


@pytest.mark.parametrize("draws", [1, 2])
def test_a_record_of_some_of_the_images_feeds_an_attack_within_its_own_budget(deployed, tmp_path, small_splits, draws):
    record(deployed, tmp_path / "pairs.npz", draws=draws, budget=100 * draws)
    hashes = Pairs.load(tmp_path / "pairs.npz").hashes
    assert len(hashes) == 100
    access = Access(capture=deployed.capture, public=deployed.public, pairs=tmp_path / "pairs.npz")
    for budget, images in ((None, 100), (40 * draws, 40)):
        _, known = access.knowledge(config(max_queries=budget), small_splits.public, CPU)
        assert len(known.public) == len(known.labels) == images
        known.query(known.public)
    asked = config(max_queries=40 * draws)
    made = attack(deployed, tmp_path / "out", asked, pairs=tmp_path / "pairs.npz")
    assert made["queries"] == 40 * draws


def test_a_white_box_is_the_encoder_alone_frozen_and_without_noise(deployed, small_splits):
    access = Access(capture=deployed.capture, public=deployed.public, encoder=deployed.folder / "toy" / "edge")
    _, known = access.knowledge(config(), small_splits.public, CPU)
    images = small_splits.public.floats()[:4]
    assert torch.equal(known.encoder(images), known.encoder(images))
    torch.testing.assert_close(known.encoder(images), deployed.half.encoder(images))
    assert not known.encoder.training
    assert not any(parameter.requires_grad for parameter in known.encoder.parameters())
    assert (known.query, known.head, known.fresh_encoder) == (None, None, None)


def test_who_has_either_half_undoes_the_order_of_each_session(small_splits, tmp_path):
    model = {"architecture": "cnn", "width": 0.5, "channels": 1, "size": 16, "classes": 10}
    document = {"model": model, "training": {"epochs": 1}, "defenses": [{"name": "permutation"}]}
    save(tmp_path / "toy", "toy", train(TargetConfig.parse(document, source="test"), small_splits, device=CPU))
    edge, victims, own = tmp_path / "toy" / "edge", small_splits.victims.floats(), small_splits.public.floats()[:20]
    sent, answers = (load_edge(edge, CPU, seed=seed).encode(shown.numpy()) for seed, shown in ((1, victims), (2, own)))
    np.save(tmp_path / "sent.npy", sent)
    np.savez(tmp_path / "pairs.npz", features=answers, images=own.numpy())
    access = Access(features=tmp_path / "sent.npy", pairs=tmp_path / "pairs.npz", encoder=edge)
    _, known = access.knowledge(config(draws=1), access.images(), CPU)
    torch.testing.assert_close(known.captured, known.encoder(victims))
    torch.testing.assert_close(known.query(known.public), known.encoder(known.public))
    assert known.query.made == 20
    _, blind = replace(access, encoder=None).knowledge(config(draws=1), access.images(), CPU)
    assert torch.equal(blind.captured, torch.from_numpy(sent))
    cloud = replace(access, encoder=None, head=tmp_path / "toy" / "cloud")  # knows the order as well
    _, curious = cloud.knowledge(config(draws=1), access.images(), CPU)
    torch.testing.assert_close(curious.captured, known.captured)
    served = torch.from_numpy(load_cloud(tmp_path / "toy" / "cloud", CPU).predict(sent))
    torch.testing.assert_close(curious.head(curious.captured), served)
    assert curious.simulate is None  # a session's order is undone, and nothing else is drawn


def test_a_white_box_rounds_and_clamps_as_the_edge_does_where_that_lets_gradients_through(
    small_splits, tmp_path, monkeypatch
):
    model = {"architecture": "cnn", "width": 0.5, "channels": 1, "size": 16, "classes": 10}
    defenses = [{"name": "quantisation", "high": 0.5}]
    document = {"model": model, "training": {"epochs": 1}, "defenses": defenses}
    save(tmp_path / "toy", "toy", train(TargetConfig.parse(document, source="test"), small_splits, device=CPU))
    edge, victims, own = tmp_path / "toy" / "edge", small_splits.victims.floats(), small_splits.public
    np.save(tmp_path / "sent.npy", load_edge(edge, CPU).encode(victims.numpy()))
    _, known = Access(features=tmp_path / "sent.npy", encoder=edge).knowledge(config(), own, CPU)
    shown = victims.clone().requires_grad_()
    features = known.encoder(shown)
    torch.testing.assert_close(features, known.captured)
    features.sum().backward()
    assert shown.grad.abs().max() > 0
    monkeypatch.setattr(Quantisation, "forward", lambda _, features: features.round())  # as a plug-in's may be
    _, known = Access(features=tmp_path / "sent.npy", encoder=edge).knowledge(config(), own, CPU)
    torch.testing.assert_close(known.encoder(victims), load_edge(edge, CPU).encoder(victims))


def test_a_white_box_expects_what_noise_leaves_between_the_levels_that_are_sent(small_splits, tmp_path):
    model = {"architecture": "cnn", "width": 0.5, "channels": 1, "size": 16, "classes": 10}
    defenses = [{"name": "bottleneck"}, {"name": "gaussian-noise", "sigma": 0.4}, {"name": "quantisation", "levels": 2}]
    document = {"model": model, "training": {"epochs": 1}, "defenses": defenses}
    save(tmp_path / "toy", "toy", train(TargetConfig.parse(document, source="test"), small_splits, device=CPU))
    half, victims = load_edge(tmp_path / "toy" / "edge", CPU, seed=0), small_splits.victims.floats()
    sent = torch.stack([torch.from_numpy(half.encode(victims.numpy())) for _ in range(64)]).mean(0)
    np.save(tmp_path / "sent.npy", sent.numpy())
    access = Access(features=tmp_path / "sent.npy", encoder=tmp_path / "toy" / "edge")
    _, known = access.knowledge(config(), replace(small_splits.public, **vars(small_splits.victims)), CPU)
    simulated = public_features("test", known.encoder, known, Run(), 64).mean(0)  # of the bare encoder's features
    for features in (known.encoder(victims).detach(), simulated):
        assert float((features - sent).abs().mean()) < 0.15  # of levels a whole apart


def test_who_has_the_edges_half_undoes_means_of_as_many_crossings_as_they_are_of(deploy, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(Stack, "undone", lambda _, sent, crossings=1: told.append(crossings) or sent)
    with deploy(tmp_path, repeat=2) as chain:
        half = chain.folder / "toy" / "edge"
        access = Access(capture=chain.capture, public=chain.public, encoder=half, edge=chain.edge)
        _, known = access.knowledge(config(views=2), access.images(), CPU)
        known.query(known.public[:2])
    assert told == [2, 2]


def test_who_has_a_half_simulates_the_noise_on_the_wire_as_it_was_captured(deploy, tmp_path, small_splits):
    with deploy(tmp_path, repeat=2) as chain:
        access = Access(capture=chain.capture, public=chain.public)
        half, head = chain.folder / "toy" / "edge", chain.folder / "toy" / "cloud"
        for views, told in ((1, replace(access, head=head)), (2, replace(access, head=head, encoder=half))):
            _, known = told.knowledge(config(views=views, crossings=2), small_splits.public, CPU)
            drawn = known.simulate(torch.ones(300, *known.captured.shape[1:]), 2, 0) - 1
            assert (drawn.mean(), drawn.std()) == pytest.approx((0, 0.05 / views**0.5), rel=0.05, abs=1e-3)
            assert drawn.flatten(1).corrcoef()[0, 1].abs() < 0.05  # each time another
        _, blind = access.knowledge(config(crossings=2), small_splits.public, CPU)
        assert blind.simulate is None


def test_a_curious_cloud_has_the_head_and_builds_untrained_encoders_that_are_not_the_targets(deployed, small_splits):
    access = Access(capture=deployed.capture, public=deployed.public, head=deployed.folder / "toy" / "cloud")
    _, known = access.knowledge(config(), small_splits.public, CPU)
    assert known.head(known.captured).shape == (len(small_splits.victims), 10)
    assert not any(parameter.requires_grad for parameter in known.head.parameters())
    encoders = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        encoders.append(known.fresh_encoder())
    first, again, other = (torch.cat([each.flatten() for each in encoder.parameters()]) for encoder in encoders)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert encoders[0](small_splits.public.floats()[:2]).shape[1:] == known.captured.shape[1:]
    assert all(parameter.requires_grad for parameter in encoders[0].parameters())


def test_an_unknown_attack_or_setting_is_refused_by_name():
    with pytest.raises(ValueError, match=r"expected an attack of .*decoder.*mi-face.*, got 'magic'"):
        config(attack="magic").build()
    with pytest.raises(ValueError, match=r"attack 'decoder': .*epoch"):
        config(settings={"epoch": 3}).build()
    with pytest.raises(ValueError, match=r"attack 'mi-face': .*step"):
        AttackConfig(attack="mi-face", settings={"step": 3}).build()


def test_settings_lie_over_the_preset():
    built = config(preset="paper", settings={"epochs": 7}).build()
    assert (built.config.epochs, built.config.blocks) == (7, 8)
    built = AttackConfig(attack="mi-face", preset="paper", settings={"steps": 7}).build()
    assert (built.config.steps, built.config.loss) == (7, "probability")


@pytest.mark.slow
def test_the_commands_query_attack_and_score_pass_on_what_they_are_given(deploy, tmp_path):
    def call(*arguments):
        made = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
        assert made.exit_code == 0, made.output
        return json.loads(made.stdout)

    pairs, out = tmp_path / "pairs.npz", tmp_path / "attack"
    with deploy(tmp_path, repeat=2) as chain:
        wire = ("--capture", chain.capture, "--public", chain.public)
        made = call("query", *wire, "--edge", chain.edge, "--out", pairs, "--draws", 2, "--views", 2)
        assert made["queries"] == 2 * 2 * 300
        white = ("--encoder", chain.folder / "toy" / "edge", "--head", chain.folder / "toy")
        quick = [option for key, value in QUICK.items() for option in ("--set", f"{key}={value}")]
        call("attack", *wire, "--pairs", pairs, "--views", 2, "--out", out, *white, *quick)
        chain.ledger.write(tmp_path / "ledger.json")
    found = json.loads((out / "attack.json").read_text())
    assert found["knowledge"] == ["encoder", "fresh_encoder", "head", "labels", "public", "query"]
    about = {"dataset": "builtin", "model": "cnn", "method": "none", "attack": "decoder", "seed": 0, "target": "toy"}
    (tmp_path / "cell.json").write_text(json.dumps(about))
    truth = ("--truth", chain.folder / "victims.npz", "--ledger", tmp_path / "ledger.json")
    place = ("--cell", tmp_path / "cell.json", "--out", tmp_path / "score")
    call("score", "--artifact", chain.folder / "toy", "--attack", out, *truth, *place)
    record = load_record(tmp_path / "score")
    assert (record.cell, record.n) == (FeaturesPlace(**about), 40)
    threat = record.threat_model
    assert (threat.draws, threat.views, threat.queries) == (2, 2, 1200)
    assert list(threat.knowledge) == found["knowledge"]


@pytest.fixture(scope="module")
def sharing(trained, tmp_path_factory):
    """The whole model as a service that tells five scores, and a folder of what victims share of those."""
    folder = tmp_path_factory.mktemp("shared")
    with cloud(CloudConfig(policy=PolicyConfig(top=5)), load_whole(trained / "toy", CPU, seed=0)) as port:
        asked = SharingConfig(service=f"127.0.0.1:{port}", share=(0, 2))
        share_predictions(asked, trained / "victims.npz", folder)
        yield SimpleNamespace(service=asked.service, folder=folder, public=trained / "public.npz")


INVERSION = AttackConfig(attack="prediction-inversion", settings={"epochs": 1}, seed=3)


def test_shared_scores_are_attacked_live_and_on_record_alike(sharing, tmp_path, small_splits):
    shared, pairs = SharedScores.load(sharing.folder / "shared-2.npz"), tmp_path / "pairs.npz"
    record_queries(ServiceProbe(sharing.service), sharing.public, pairs, draws=1, views=1, budget=None)
    for name, given in (("live", {"service": sharing.service}), ("recorded", {"pairs": pairs})):
        access = Access(public=sharing.public, shared=sharing.folder / "shared-2.npz", **given)
        run_attack(INVERSION, access, tmp_path / name, CPU, silent)
        assert Reconstructions.load(tmp_path / name / "reconstructions.npz").ids == shared.ids
        found = json.loads((tmp_path / name / "attack.json").read_text())
        assert (found["queries"], found["knowledge"]) == (len(small_splits.public), ["labels", "public", "query"])
        assert (found["findings"]["share"], found["views"]) == (2, 1)


def test_victims_who_share_all_that_a_service_tells_share_no_more_than_it_tells(sharing, tmp_path):
    access = Access(public=sharing.public, shared=sharing.folder / "shared-all.npz", service=sharing.service)
    assert run_attack(INVERSION, access, tmp_path / "out", CPU, silent)["findings"]["share"] == 5


def test_no_query_is_sent_to_a_service_over_the_budget(sharing, tmp_path):
    access = Access(public=sharing.public, shared=sharing.folder / "shared-2.npz", service=sharing.service)
    made = run_attack(INVERSION.model_copy(update={"max_queries": 299}), access, tmp_path / "out", CPU, silent)
    assert made["queries"] == 299


def test_an_attack_on_features_refuses_shared_scores_and_the_other_way_round(deployed, sharing, tmp_path):
    access = Access(public=sharing.public, shared=sharing.folder / "shared-2.npz", service=sharing.service)
    with pytest.raises(ValueError, match=r"'decoder': expected captured features .*, got scores \(40, 10\)"):
        run_attack(config(), access, tmp_path / "out", CPU, silent)
    with pytest.raises(ValueError, match=r"'prediction-inversion': expected captured scores .*, got features"):
        attack(deployed, tmp_path / "out", INVERSION)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"capture": None}, "an array of features, got none"),
        ({"shared": "shared-2.npz"}, "an array of features, got a capture and shared scores"),
        ({"capture": None, "shared": "shared-2.npz", "edge": "127.0.0.1:1"}, "a capture beside an edge"),
        ({"service": "127.0.0.1:1"}, "shared scores beside a service"),
        ({"capture": None, "shared": "shared-2.npz", "service": "127.0.0.1:1", "pairs": Path("x")}, "got service and"),
    ],
)
def test_victims_and_queries_that_do_not_belong_together_are_refused(deployed, sharing, given, said, small_splits):
    access = {"capture": deployed.capture, "public": deployed.public, **given}
    if "shared" in given:
        access["shared"] = sharing.folder / given["shared"]
    with pytest.raises(ValueError, match=said):
        Access(**access).knowledge(config(), small_splits.public, CPU)


def test_views_are_of_a_capture(sharing, small_splits):
    access = Access(public=sharing.public, shared=sharing.folder / "shared-2.npz")
    with pytest.raises(ValueError, match="several views, got shared scores"):
        access.knowledge(config(views=2), small_splits.public, CPU)


def test_the_command_attack_inverts_shared_scores_unless_told_otherwise(sharing, tmp_path):
    given = ("--public", sharing.public, "--shared", sharing.folder / "shared-2.npz", "--service", sharing.service)
    more = ("--out", tmp_path / "out", "--set", "epochs=1", "--scores", "probabilities", "--output", "probabilities")
    made = CliRunner().invoke(app, ["attack", *map(str, (*given, *more)), "--json"], catch_exceptions=False)
    assert made.exit_code == 0, made.output
    found = json.loads((tmp_path / "out" / "attack.json").read_text())
    assert (found["attack"], found["rebuilt"], found["findings"]["share"]) == ("prediction-inversion", 40, 2)


def invert(out, access, **changes):
    config = AttackConfig(**{"attack": "mi-face", "settings": FEW_STEPS, **changes})
    return run_attack(config, access, out, CPU, silent)


class MeanOfEach(ClassInversion):
    """The mean of the images that the service puts in each class."""

    name = "mean-of-each"
    config_type = Config
    access = "label"
    needs = frozenset({"public", "query"})

    def invert(self, known, run):
        tops = known.query(known.public).argmax(1)
        mean = [known.public[tops == label].sum(0) / max(1, (tops == label).sum()) for label in range(10)]
        return torch.stack(mean)[:, None]


@pytest.fixture
def mean_of_each(monkeypatch):
    monkeypatch.setitem(CLASS_ATTACKS, "mean-of-each", MeanOfEach)


@pytest.fixture(scope="module")
def top_only(trained):
    """The address of the whole model, which tells no more than the class and its confidence."""
    config = CloudConfig(policy=PolicyConfig(top=1))
    with cloud(config, load_whole(trained / "toy", CPU, seed=0)) as port:
        yield f"127.0.0.1:{port}"


def test_an_attack_leaves_one_picture_a_class_under_its_number_and_says_how(trained, tmp_path):
    made = invert(tmp_path / "out", Access(artifact=trained / "toy"), seed=3)
    assert (made["rebuilt"], made["queries"]) == (10, 0)
    assert "confidences" not in made["findings"]
    rebuilt = Reconstructions.load(tmp_path / "out" / "reconstructions.npz")
    assert rebuilt.ids == tuple(map(str, range(10)))
    assert rebuilt.images.shape == (10, 1, 16, 16)
    found = json.loads((tmp_path / "out" / "attack.json").read_text())
    assert (found["attack"], found["seed"], found["queries"], found["draws"]) == ("mi-face", 3, 0, 1)
    assert found["knowledge"] == ["classes", "model"]
    assert found["config"]["steps"] == 2
    assert len(found["findings"]["confidences"]) == 10
    assert found["public_hashes"] == []
    assert {"command", "commit", "hardware", "time"} <= found["provenance"].keys()


def test_who_has_the_weights_ignores_output_policies_and_the_file_says_so(trained, tmp_path):
    invert(tmp_path / "out", Access(artifact=trained / "toy"))
    assert json.loads((tmp_path / "out" / "attack.json").read_text())["ignores_output_policy"] is True


def test_a_white_box_is_the_whole_network_frozen_and_without_noise(trained, small_splits):
    known = Access(artifact=trained / "toy").class_knowledge(AttackConfig(attack="mi-face"), None, CPU)
    images = small_splits.public.floats()[:4]
    assert torch.equal(known.model(images), known.model(images))
    assert known.model(images).shape == (4, 10)
    assert not known.model.training
    assert not any(parameter.requires_grad for parameter in known.model.parameters())
    assert (known.classes, known.image_shape, known.query, known.public) == (10, (1, 16, 16), None, None)


def test_an_attack_is_refused_without_what_it_needs(trained, tmp_path):
    with pytest.raises(PermissionError, match="'mi-face' needs 'model', which this threat model withholds"):
        invert(tmp_path / "out", Access(public=trained / "public.npz"))
    assert not (tmp_path / "out").exists()


def test_without_images_or_a_model_the_shape_is_unknown(tmp_path):
    with pytest.raises(ValueError, match="expected images of the attacker's own or a model"):
        invert(tmp_path / "out", Access())


def test_a_service_and_pairs_together_are_refused(trained, tmp_path):
    access = Access(public=trained / "public.npz", service="127.0.0.1:1", pairs=tmp_path / "pairs.npz")
    with pytest.raises(ValueError, match=r"expected one way to query.*, got service and pairs"):
        invert(tmp_path / "out", access)


def test_live_queries_are_counted_and_capped(trained, top_only, mean_of_each, tmp_path, small_splits):
    access = Access(public=trained / "public.npz", service=top_only)
    made = invert(tmp_path / "out", access, attack="mean-of-each", settings={}, max_queries=300)
    found = json.loads((tmp_path / "out" / "attack.json").read_text())
    assert (made["queries"], found["queries"], found["ignores_output_policy"]) == (300, 300, False)
    assert found["knowledge"] == ["labels", "public", "query"]
    assert found["public_hashes"] == small_splits.public.hashes()
    with pytest.raises(PermissionError, match="at most 299 queries, got 300"):
        invert(tmp_path / "more", access, attack="mean-of-each", settings={}, max_queries=299)
    assert not (tmp_path / "more").exists()


def test_class_inference_uses_as_many_images_as_the_budget_covers(trained, top_only, tmp_path):
    access = Access(public=trained / "public.npz", service=top_only)
    made = invert(tmp_path / "out", access, attack="class-inference", settings={"epochs": 1}, max_queries=100)
    assert (made["queries"], made["rebuilt"]) == (100, 10)


def test_queries_on_record_are_those_of_the_attackers_images(trained, top_only, mean_of_each, tmp_path):
    pairs, public = tmp_path / "pairs.npz", trained / "public.npz"
    Pairs.record(ServiceProbe(top_only), load_file(public).train, draws=1, averaging=1).save(pairs)
    for name in ("one", "two"):  # the model is noisy: asked live, it would not answer twice the same
        invert(tmp_path / name, Access(public=public, pairs=pairs), attack="mean-of-each", settings={})
    first, second = (Reconstructions.load(tmp_path / name / "reconstructions.npz") for name in ("one", "two"))
    assert torch.equal(first.images, second.images)
    assert json.loads((tmp_path / "one" / "attack.json").read_text())["queries"] == 300
    for other in (None, trained / "victims.npz"):
        with pytest.raises(ValueError, match="expected queries with the images of"):
            Access(public=other, pairs=pairs, artifact=trained / "toy").class_knowledge(
                AttackConfig(attack="mean-of-each"), None if other is None else load_file(other).train, CPU
            )


def test_the_command_passes_on_what_it_is_given(trained, tmp_path):
    (tmp_path / "settings.json").write_text('{"steps": 3, "learning_rate": 0.5}')
    asked = ("--attack", "mi-face", "--artifact", trained / "toy", "--config", tmp_path / "settings.json")
    rest = ("--set", "steps=1", "--seed", 4, "--preset", "paper", "--classes", 10, "--out", tmp_path / "out", "--json")
    told = CliRunner().invoke(app, ["invert", *map(str, (*asked, *rest))], catch_exceptions=False)
    assert told.exit_code == 0, told.output
    assert json.loads(told.stdout)["rebuilt"] == 10
    found = json.loads((tmp_path / "out" / "attack.json").read_text())
    assert found["seed"] == 4
    assert (found["config"]["steps"], found["config"]["learning_rate"]) == (1, 0.5)
    assert found["config"]["optimizer"] == "gradient-descent"


def test_a_model_is_asked_without_a_service_and_its_labels_may_be_all_there_is(trained, tmp_path, mean_of_each):
    access = Access(public=trained / "public.npz", oracle=trained / "toy")
    public = load_file(trained / "public.npz").train
    plain = invert(tmp_path / "plain", access, attack="mean-of-each", settings={})
    labels = invert(tmp_path / "labels", replace(access, labels_only=True), attack="mean-of-each", settings={})
    assert plain["queries"] == labels["queries"] == 300
    query = replace(access, labels_only=True).class_knowledge(AttackConfig(attack="mi-face"), public, CPU).query
    answers = query(torch.rand(5, 1, 16, 16))
    assert query.answers == "labels"
    assert ((answers == 1).sum(1) == 1).all()
    assert (answers.sum(1) == 1).all()
    with pytest.raises(ValueError, match=r"expected one way to query.*, got service and oracle"):
        invert(tmp_path / "both", replace(access, service="127.0.0.1:1"))


def test_a_conditional_prior_of_other_classes_than_the_targets_is_refused(trained, tmp_path, small_splits):
    names, training = small_splits.public.classes, PriorConfig(width=2, batch_size=8, iterations=1, conditional=True)

    def known(name, classes):
        train_prior(training, replace(small_splits.public, classes=classes), Run()).save(tmp_path / name)
        access = Access(artifact=trained / "toy", prior=tmp_path / name)
        return access.class_knowledge(AttackConfig(attack="gmi"), None, CPU)

    assert known("own", names).prior.classes == names
    with pytest.raises(ValueError, match=r"others: expected a prior.* got one of other"):
        known("others", tuple(f"other {each}" for each in names))


def test_a_prior_tells_the_shape_and_its_images_are_on_record(trained, tiny_prior, tmp_path, small_splits):
    tiny_prior.save(tmp_path / "prior")
    access = Access(artifact=trained / "toy", prior=tmp_path / "prior")
    made = invert(tmp_path / "out", access, attack="gmi", settings={"steps": 1, "restarts": 2})
    assert made["rebuilt"] == 20
    rebuilt = Reconstructions.load(tmp_path / "out" / "reconstructions.npz")
    assert rebuilt.ids[:3] == ("0/0", "0/1", "1/0")
    found = json.loads((tmp_path / "out" / "attack.json").read_text())
    assert found["access"] == "white"
    assert found["knowledge"] == ["classes", "model", "prior"]
    assert found["prior"] == tiny_prior.digest
    assert set(found["public_hashes"]) == set(small_splits.public.hashes())
    assert load_tensors(tmp_path / "out" / "weights.safetensors")[0]["latents"].shape[:2] == (10, 2)
    only = Access(prior=tmp_path / "prior").class_knowledge(AttackConfig(attack="gmi"), None, CPU)
    assert only.image_shape == (1, 16, 16)


def test_an_adaptive_attacker_bypasses_the_tanh_and_the_file_says_so(small_splits, tmp_path):
    document = {
        "model": {"architecture": "cnn", "width": 0.5, "channels": 1, "size": 16, "classes": 10},
        "defenses": [{"name": "low-rank", "rank": 2}],
        "training": {"epochs": 1},
    }
    made = train(TargetConfig.parse(document, source="test"), small_splits, device=CPU)
    save(tmp_path / "target", "target", made)
    config = AttackConfig(attack="mi-face", settings=FEW_STEPS)
    plain, adaptive = (
        Access(artifact=tmp_path / "target", adaptive=told).class_knowledge(config, None, CPU).model
        for told in (False, True)
    )
    slopes = []
    for model in (plain, adaptive):
        images = small_splits.test.floats()[:4].requires_grad_()
        slopes += torch.autograd.grad(model(images).sum(), images)
    assert not torch.allclose(*slopes)
    assert torch.equal(plain(images), adaptive(images))
    invert(tmp_path / "out", Access(artifact=tmp_path / "target", adaptive=True))
    assert read_document(tmp_path / "out" / "attack.json")["adaptive"] is True
    with pytest.raises(ValueError, match="expected the weights"):
        Access(adaptive=True).class_knowledge(config, None, CPU)


@pytest.mark.slow
def test_features_are_matched_with_public_images_and_refused_without(trained, tiny_prior, tmp_path, small_splits):
    tiny_prior.save(tmp_path / "prior")
    access = Access(artifact=trained / "toy", prior=tmp_path / "prior", adaptive=True)
    asked = {"attack": "gmi", "settings": {**FEW_STEPS, "identity": {"loss": "features"}}}
    with pytest.raises(PermissionError, match="'gmi' needs 'public'"):
        invert(tmp_path / "out", access, **asked)
    invert(tmp_path / "out", replace(access, public=trained / "public.npz"), **asked)
    found = read_document(tmp_path / "out" / "attack.json")
    assert found["config"]["identity"] == {"loss": "features", "each": 30}
    assert found["knowledge"] == ["classes", "labels", "model", "prior", "public"]
    assert set(found["public_hashes"]) == set(small_splits.public.hashes())


@pytest.mark.parametrize(
    ("attack", "given", "changes", "said"),
    [
        ("mi-face", {"capture": Path("x"), "encoder": Path("y")}, {}, "on classes can use, got capture, encoder"),
        ("mi-face", {}, {"views": 2}, "an attack on classes can use, got views"),
        ("decoder", {"adaptive": True}, {}, "an attack on victims can use, got adaptive"),
        ("decoder", {}, {"classes": 10}, "an attack on victims can use, got classes"),
        ("decoder", {"public": None}, {}, "images of the attacker's own for an attack on victims"),
    ],
)
def test_what_another_kind_of_attack_uses_is_refused_and_not_ignored(trained, tmp_path, attack, given, changes, said):
    access = Access(**{"public": trained / "public.npz", **given})
    with pytest.raises(ValueError, match=said):
        run_attack(AttackConfig(attack=attack, **changes), access, tmp_path / "out", CPU, silent)


def test_the_tensors_that_features_pack_are_told_by_the_encoders_half(tmp_path, monkeypatch):
    whole = network(Residual(), (3, 16, 16))
    cut = next(cut for cut in whole.cuts(2) if len(cut.tensors) == 2)
    import_network(whole, cut, tmp_path / "mine", source="net", name="mine", names=None, images=None)
    captured = torch.zeros(3, *cut.feature_shape)
    monkeypatch.setattr(Access, "_victims", lambda self, views, crossings: (("a", "b", "c"), captured, None))
    public = Images(torch.zeros(4, 3, 16, 16, dtype=torch.uint8), torch.zeros(4).long(), ("one",))
    for access, parts in ((Access(encoder=tmp_path / "mine" / "edge"), cut.shapes), (Access(), None)):
        known = access.knowledge(AttackConfig(attack="decoder"), public, torch.device("cpu"))[1]
        assert known.parts == parts
