import json

import pytest
import torch
from typer.testing import CliRunner

from splitleak.attacker.training.siamese import SiameseConfig
from splitleak.cli import app
from splitleak.config import read_document
from splitleak.datasets.images import Images
from splitleak.defenses.artifact import load_edge, save
from splitleak.defenses.stack import Stack
from splitleak.defenses.training import TargetConfig, train
from splitleak.eval.targets.attributes import Attribute
from splitleak.eval.targets.linkage import METHODS, LinkageConfig, crossing, linkage, measure
from splitleak.measures.linkage.refinding import VIEWS

CPU = torch.device("cpu")
QUICK = LinkageConfig(views=2, crossings=2, matcher=SiameseConfig(epochs=2, width=32, dimensions=16))


@pytest.fixture(scope="module")
def images(tmp_path_factory, small_splits):
    folder = tmp_path_factory.mktemp("images")
    small_splits.save(folder)
    return folder


@pytest.fixture(scope="module")
def artifact(tmp_path_factory, small_splits):
    document = {
        "model": {"architecture": "cnn", "width": 0.5, "channels": 1, "size": 16, "classes": 10},
        "defenses": [{"name": "gaussian-noise", "sigma": 0.01}],
        "training": {"epochs": 1},
    }
    folder = tmp_path_factory.mktemp("target") / "toy"
    save(folder, "toy", train(TargetConfig.parse(document, source="test"), small_splits, device=CPU))
    return folder


def test_the_picture_itself_is_found_again_and_is_read_and_noise_is_not(small_splits):
    public, victims = small_splits.public, small_splits.victims
    plain = linkage(lambda pictures: pictures, public, victims, QUICK)
    draw = torch.Generator().manual_seed(0)
    noise = linkage(lambda pictures: torch.randn(len(pictures), 20, generator=draw), public, victims, QUICK)
    assert plain["chance"] == noise["chance"] == 1 / len(victims)
    assert set(plain["refound"]) == set(METHODS)
    for method in METHODS:
        assert set(plain["refound"][method]) == set(VIEWS)
        assert plain["refound"][method]["same"] == {"share": 1, "error": 0, "crossings": [1]}
        again = noise["refound"][method]["same"]
        assert again["share"] < 0.1
        assert len(again["crossings"]) == 2
        assert again["share"] == pytest.approx(sum(again["crossings"]) / 2)
    assert plain["refound"]["plain"]["brighter"]["share"] > 0.9
    assert plain["label"]["right"] > 0.4 > noise["label"]["right"]
    assert plain["verified"]["0.01"]["rate"] > 0.015
    assert noise["verified"]["0.01"]["rate"] == pytest.approx(0.01, abs=0.02)


def test_a_channel_of_huge_noise_hides_no_picture_beside_it(small_splits):
    draw = torch.Generator().manual_seed(0)

    def send(pictures):
        return torch.cat([pictures, 1e4 * torch.randn(pictures.shape, generator=draw)[:, :, :4]], 2)

    found = linkage(send, small_splits.public, small_splits.victims, QUICK)
    assert found["refound"]["whitened"]["same"]["share"] > 0.9
    assert found["label"]["right"] > 0.4
    assert found["verified"]["0.01"]["rate"] > 0.015


def test_one_victim_has_no_error_and_a_document_all_the_same(small_splits):
    alone = small_splits.victims.select(torch.tensor([0]))
    found = linkage(lambda pictures: pictures, small_splits.public, alone, QUICK)
    assert found["refound"]["plain"]["same"] == {"share": 1, "error": None, "crossings": [1]}
    json.dumps(found, allow_nan=False)


def test_values_are_sorted_over_channels_where_these_stand_last_too(small_splits):
    """Channels in an order of each session, as (h, w, c): nothing of it is left once they are sorted."""
    sessions = torch.Generator().manual_seed(0)
    orders = []

    def restart():
        orders.append(torch.randperm(6, generator=sessions))

    def send(pictures):
        maps = torch.cat([pictures.roll(step, 3) for step in range(6)], 1)[:, orders[-1]]
        return maps.permute(0, 2, 3, 1)

    found = linkage(send, small_splits.public, small_splits.victims, QUICK, restart=restart)
    assert found["refound"]["unordered"]["same"]["share"] == 1
    assert found["refound"]["aligned"]["same"]["share"] == 1


def test_noise_hides_pictures_from_distances_and_not_from_what_knows_where_it_is(small_splits):
    """One channel of three holds noise ten times as large as the picture is bright: two thirds are the picture."""
    draw = torch.Generator().manual_seed(0)

    def noisy(pictures):
        return torch.cat([pictures, 10 * torch.randn(pictures.shape, generator=draw), pictures], 1)

    found = linkage(noisy, small_splits.public, small_splits.victims, QUICK)["refound"]
    assert max(found[method]["same"]["share"] for method in METHODS if method != "plda") < 0.5
    assert found["plda"]["same"]["share"] > 0.95
    assert found["plda"]["mirrored"]["share"] > 0.5


def test_an_attribute_that_is_in_the_picture_is_read_where_it_is_known(small_splits):
    def dark(images):
        values = (images.floats().mean((1, 2, 3)) > 0.3).long()
        values[::5] = -1
        return values

    public, victims = small_splits.public, small_splits.victims
    told = {
        "dark": Attribute(("no", "yes"), dark(public), dark(victims)),
        "alike": Attribute(("one",), torch.zeros(len(public)).long(), torch.zeros(len(victims)).long()),
    }
    found = linkage(lambda pictures: pictures, public, victims, QUICK, told)["attributes"]
    assert found["dark"]["victims"] == int((told["dark"].victims >= 0).sum())
    assert found["dark"]["right"] > max(0.85, found["dark"]["majority"])
    assert found["alike"] is None


def test_what_a_class_has_in_common_is_told_beside_much_that_it_has_not():
    """Ten values tell the class of a picture, and a hundred, each as large, are drawn for it."""
    labels = torch.arange(400) % 10
    draw = torch.Generator().manual_seed(0)
    names = tuple("abcdefghij")
    public, victims = (
        Images((labels[:, None, None, None] * 20).byte().expand(-1, 1, 8, 8), labels, names) for _ in range(2)
    )

    def send(pictures):
        of_class = torch.nn.functional.one_hot((pictures.mean((1, 2, 3)) * 255 / 20).round().long().clamp_max(9), 10)
        return torch.cat([of_class.float(), 0.3 * torch.randn(len(pictures), 100, generator=draw)], 1)

    assert linkage(send, public, victims, QUICK)["verified"]["0.01"]["rate"] > 0.9


def test_victims_without_two_of_a_class_are_not_verified(small_splits):
    alone = Images(small_splits.victims.pixels, torch.arange(len(small_splits.victims)), ("a",) * 1000)
    assert linkage(lambda pictures: pictures, small_splits.public, alone, QUICK)["verified"] is None


def test_a_target_is_measured_as_its_features_cross_the_wire(artifact, images, small_splits):
    once, again, other = (measure(artifact, images, QUICK.model_copy(update={"seed": seed}), CPU) for seed in (0, 0, 1))
    assert once["refound"] == again["refound"] != other["refound"]
    assert once["queries"] == (2 + 4) * len(small_splits.public)
    assert (once["target"], once["config"]["codec"]) == ("toy", "fp32")
    assert once["refound"]["plain"]["same"]["share"] > 0.5
    half = load_edge(artifact / "edge", CPU, seed=0)
    pictures = small_splits.victims.floats()[:3]
    exact = crossing(half, "fp32")(pictures)
    half = load_edge(artifact / "edge", CPU, seed=0)
    coarse = crossing(half, "uint8")(pictures)
    for row, rounded in zip(exact, coarse, strict=True):
        step = float(row.max() - row.min()) / 255
        assert 0 < float((row - rounded).abs().max()) <= 0.51 * step


def test_an_order_of_each_session_hides_pictures_from_plain_distance_alone(images, small_splits, tmp_path):
    document = {
        "model": {"architecture": "cnn", "width": 0.5, "channels": 1, "size": 16, "classes": 10},
        "defenses": [{"name": "permutation"}],
        "training": {"epochs": 1},
    }
    save(tmp_path / "toy", "toy", train(TargetConfig.parse(document, source="test"), small_splits, device=CPU))
    found = {
        sessions: measure(tmp_path / "toy", images, QUICK.model_copy(update={"sessions": sessions}), CPU)["refound"]
        for sessions in ("one", "several")
    }
    same = {sessions: {method: of[method]["same"]["share"] for method in METHODS} for sessions, of in found.items()}
    assert set(same["one"].values()) == {1}
    assert same["several"]["plain"] < 0.5
    assert same["several"]["unordered"] > 0.9  # the values at each place are the same in any order
    for method in ("aligned", "whitened", "plda"):
        assert same["several"][method] > 0.9, method  # the channels' means tell the order


def test_noise_on_the_number_of_a_session_hides_no_picture(small_splits):
    draw = torch.Generator().manual_seed(0)
    encoder = torch.nn.Conv2d(1, 6, 3, stride=4)
    with torch.no_grad():
        encoder.weight.normal_(generator=draw)
        encoder.bias.normal_(generator=draw)
    session = {}

    def restart():
        session["order"] = torch.randperm(6, generator=draw)
        session["number"] = torch.randint(2, (1, 1, 4, 4), generator=draw).float()

    @torch.no_grad()
    def send(pictures):
        features = torch.sigmoid(encoder(pictures))[:, session["order"]]
        sent = torch.cat([features, session["number"].expand(len(pictures), -1, -1, -1)], 1)
        return sent + 0.15 * torch.randn(sent.shape, generator=draw)

    same = {}
    for public_channels in (0, 1):
        sets = small_splits.public, small_splits.victims
        found = linkage(send, *sets, QUICK, restart=restart, public_channels=public_channels)["refound"]
        same[public_channels] = {method: of["same"]["share"] for method, of in found.items()}
    assert same[1]["unordered"] > same[0]["unordered"] + 0.1
    assert same[1]["aligned"] > max(same[1]["unordered"], same[1]["plain"])


def test_the_number_of_a_targets_session_is_left_out_of_what_is_compared(images, small_splits, tmp_path, monkeypatch):
    monkeypatch.setattr(Stack, "begin", lambda *_: None)  # as older versions trained: with noise on the number, too
    document = {
        "model": {"architecture": "cnn", "width": 0.5, "channels": 1, "size": 16, "classes": 10},
        "defenses": [
            {"name": "bottleneck", "channels": 2},
            {"name": "permutation", "bits": 4},
            {"name": "gaussian-noise", "sigma": 0.03},
        ],
        "training": {"epochs": 1},
    }
    save(tmp_path / "toy", "toy", train(TargetConfig.parse(document, source="test"), small_splits, device=CPU))
    send = crossing(load_edge(tmp_path / "toy" / "edge", CPU, seed=0), "fp32")
    left_out = measure(tmp_path / "toy", images, QUICK, CPU)["refound"]
    kept = linkage(send, small_splits.public, small_splits.victims, QUICK)["refound"]
    assert left_out["unordered"]["same"]["share"] > kept["unordered"]["same"]["share"]


def test_the_command_shows_writes_and_reads_attributes(artifact, images, small_splits, tmp_path):
    table = "\n".join(f"victims,{place},{place % 2}" for place in range(len(small_splits.victims)))
    own = "\n".join(f"public,{place},{place % 2}" for place in range(len(small_splits.public)))
    (tmp_path / "attributes.csv").write_text(f"set,index,odd\n{table}\n{own}\n")
    options = ["--images", str(images), "--attributes", str(tmp_path / "attributes.csv"), "--set", "views=2"]
    options += ["--set", "crossings=1", "--set", "matcher.epochs=1"]
    written = CliRunner().invoke(app, ["linkage", str(artifact), *options, "--out", str(tmp_path / "l.json"), "--json"])
    assert written.exit_code == 0, written.output
    document = json.loads(written.stdout)
    assert document == read_document(tmp_path / "l.json")
    assert document["attributes"]["odd"]["right"] == pytest.approx(0.5, abs=0.2)
    shown = CliRunner().invoke(app, ["linkage", str(artifact), *options], env={"COLUMNS": "120"})
    for text in ("found again, mirrored: learned", "two pictures told to be of one class", "probe of odd is right"):
        assert text in shown.output


def test_an_embedder_without_what_was_rebuilt_is_refused(artifact, images, tmp_path):
    given = ["linkage", str(artifact), "--images", str(images), "--embedder", str(tmp_path / "face.onnx")]
    refused = CliRunner().invoke(app, given)
    assert refused.exit_code == 2
    assert "--embedder and --score together" in " ".join(refused.output.replace("│", "").split())
