"""A classifier on a server that knows nothing of us has victims and an attacker like one of ours; so has ours."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from splitleak.attacker.queries import Pairs
from splitleak.cli import app
from splitleak.datasets.files import load_file
from splitleak.defenses.artifact import save
from splitleak.defenses.training import TargetConfig, train
from splitleak.edge.ledger import Ledger
from splitleak.eval.campaign.processes import service
from splitleak.measures.scores import check_scores
from splitleak.seeding import resolve_device
from splitleak.wire.files.shared import SharedScores

pytestmark = pytest.mark.slow

SERVER = Path(__file__).with_name("foreign_server.py")
PATIENCE_S = 60
PIXELS = np.random.default_rng(1).integers(0, 256, (20, 4, 4), np.uint8)


def expected():
    odds = np.exp((PIXELS.reshape(20, 16) / 255) @ np.random.default_rng(0).normal(size=(16, 5)))
    return odds / odds.sum(1, keepdims=True)


def result(*arguments):
    made = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert made.exit_code == 0, made.output
    return json.loads(made.stdout.splitlines()[-1])


@pytest.fixture(scope="module", params=["raw", "typed"])
def theirs(request):
    """The address of a server by other people."""
    pytest.importorskip("tritonclient")
    command = [sys.executable, SERVER, request.param]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield f"127.0.0.1:{int(process.stdout.readline())}"
        process.stdin.close()
        assert process.wait(PATIENCE_S) == 0


@pytest.fixture
def images(tmp_path):
    classes = np.array(list("abcde"))  # without names, labels that do not occur are no classes
    np.savez(tmp_path / "images.npz", images=PIXELS, labels=expected().argmax(1), classes=classes)
    return tmp_path / "images.npz"


def test_victims_of_a_foreign_service_publish_its_scores(theirs, images, tmp_path):
    where = ("--service", theirs, "--model", "digits", "--images", images, "--out", tmp_path / "shared")
    made = result("predict", *where, "--share", 0, "--share", 2)
    assert (made["images"], made["classes"], made["accuracy"]) == (20, 5, 1.0)
    places = Ledger.read(tmp_path / "shared" / "ledger.json").places
    full, two = (SharedScores.load(tmp_path / "shared" / f"shared-{name}.npz") for name in ("all", "2"))
    order = [places[name] for name in full.ids]
    np.testing.assert_allclose(full.scores, expected()[order], atol=1e-6)
    assert ((two.scores > 0).sum(1) == 2).all()
    assert (two.scores.sum(1) < 1).all()


def test_an_attacker_queries_a_foreign_service_in_the_batches_it_takes(theirs, images, tmp_path):
    where = ("--service", theirs, "--model", "digits", "--public", images, "--out", tmp_path / "pairs.npz")
    assert result("query", *where, "--draws", 2, "--max-queries", 40)["queries"] == 40
    pairs = Pairs.load(tmp_path / "pairs.npz")
    assert pairs.features.shape == (2, 20, 5)
    assert pairs.hashes == tuple(load_file(images).train.hashes())
    np.testing.assert_allclose(pairs.features, np.stack([expected()] * 2), atol=1e-6)


def test_the_inversion_works_unchanged_on_a_foreign_service(theirs, images, tmp_path):
    result(
        "predict",
        "--service",
        theirs,
        "--model",
        "digits",
        "--images",
        images,
        "--share",
        2,
        "--out",
        tmp_path / "shared",
    )
    victims = ("--shared", tmp_path / "shared" / "shared-2.npz", "--public", images, "--attack", "prediction-inversion")
    made = result(
        "attack", "--service", theirs, *victims, "--out", tmp_path / "attack", "--max-queries", 20, "--set", "epochs=3"
    )
    assert (made["rebuilt"], made["queries"], made["findings"]["share"]) == (20, 20, 2)


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ((), ValueError, "expected the name of a model of the server"),
        (("--model", "faces"), LookupError, "unknown model: 'faces'"),
        (("--model", "digits", "--output", "scores"), LookupError, "expected output 'scores'"),
        (("--model", "digits", "--output", "label"), ValueError, "INT64"),
    ],
)
def test_what_a_foreign_service_does_not_have_is_said(theirs, images, tmp_path, options, error, said):
    with pytest.raises(error, match=said):
        result("query", "--service", theirs, "--public", images, "--out", tmp_path / "pairs.npz", *options)
    assert not (tmp_path / "pairs.npz").exists()


def test_our_own_service_needs_no_model_name_and_lets_out_what_its_policy_says(small_splits, tmp_path):
    document = {
        "model": {"architecture": "cnn", "width": 0.5, "channels": 1, "size": 16, "classes": 10},
        "training": {"epochs": 1},
    }
    trained = train(TargetConfig.parse(document, source="test"), small_splits, device=resolve_device("cpu"))
    save(tmp_path / "target", "whole", trained)
    small_splits.victims.save(tmp_path / "victims.npz")
    (tmp_path / "policy.toml").write_text("top = 5\n")
    given = ["cloud", tmp_path / "target", "--whole", "--policy", tmp_path / "policy.toml", "--set", "rounding=0.01"]
    with service([*map(str, given), "--threads", "1", "--listen", "127.0.0.1:0"], tmp_path / "cloud.log") as running:
        where = ("--service", running.wait_for("listening", PATIENCE_S)["address"])
        made = result(
            "predict", *where, "--images", tmp_path / "victims.npz", "--share", 0, "--out", tmp_path / "shared"
        )
        result("query", *where, "--public", tmp_path / "victims.npz", "--out", tmp_path / "pairs.npz")
    shared, pairs = SharedScores.load(tmp_path / "shared" / "shared-all.npz"), Pairs.load(tmp_path / "pairs.npz")
    assert (made["model"], made["images"], made["classes"]) == ("whole", 40, 10)
    order = [Ledger.read(tmp_path / "shared" / "ledger.json").places[name] for name in shared.ids]
    np.testing.assert_array_equal(shared.scores, pairs.features[0, order])
    check_scores(pairs.features[0])
    assert ((shared.scores > 0).sum(1) <= 5).all()
    np.testing.assert_allclose(shared.scores * 100, np.round(shared.scores * 100), atol=1e-4)


def test_a_misspelt_policy_is_an_error_at_the_start(tmp_path):
    with pytest.raises(ValueError, match="policy: expected a PolicyConfig, but tops"):
        result("cloud", tmp_path, "--whole", "--set", "tops=3")


@pytest.mark.parametrize("given", [(), ("--capture", "c"), ("--service", "s:1", "--capture", "c", "--edge", "e:1")])
def test_a_query_goes_to_an_edge_or_to_a_service(given):
    made = CliRunner().invoke(app, ["query", "--public", "p.npz", *given])
    assert made.exit_code == 2
    assert "expected --service, --function, or --capture with --edge" in " ".join(made.output.replace("│", " ").split())
