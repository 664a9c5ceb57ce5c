import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from splitleak.artifacts import write_json
from splitleak.attacker.outputs import Reconstructions
from splitleak.cli import app
from splitleak.config import digest
from splitleak.defenses.artifact import artifact_digest, half_digest, load_whole, read_record, save
from splitleak.defenses.training import TargetConfig, train
from splitleak.edge.ledger import Ledger
from splitleak.eval.record.schema import FeaturesPlace, load_record
from splitleak.eval.record.scoring import constant_mse
from splitleak.eval.record.victims import make_record
from splitleak.measures.pixel import mse


@pytest.fixture(scope="module")
def evaluator(tmp_path_factory, small_splits):
    document = {
        "model": {"architecture": "conv3", "width": 0.0625, "channels": 1, "size": 16, "classes": 10},
        "training": {"epochs": 1},
        "seed": 7,
    }
    target = train(TargetConfig.parse(document, source="test"), small_splits, device=torch.device("cpu"))
    folder = tmp_path_factory.mktemp("evaluator") / "judge"
    save(folder, "judge", target)
    return folder


def put(splits, folder):
    """The four sets and ``splits.json`` beside what is in ``folder``."""
    splits.save(folder / "images")
    shutil.copytree(folder / "images", folder, dirs_exist_ok=True)


def judged(artifact, given, out, order=0, **options):
    return make_record(artifact, given / "attack", given / "victims.npz", given / "ledger.json", out, order, **options)


def test_the_record_says_what_was_attacked_how_and_how_well(artifact, materials, tmp_path, small_splits):
    given = materials("whole")
    record = judged(artifact, given, tmp_path / "cell", order=3)
    assert record == load_record(tmp_path / "cell")
    assert record.order == 3
    assert record.target.name == "toy"
    assert record.target.design.model.architecture == "cnn"
    assert record.target.dataset.document() == small_splits.record
    assert record.target.digest == artifact_digest(artifact)
    assert 0 <= record.target.accuracy <= 1
    assert record.threat_model.queries == 300
    assert record.threat_model.sees == "features"
    assert record.wire.images == 40
    assert record.wire.bytes_per_image == np.mean([1000 + place for place in range(40)])
    assert record.n == 40
    assert record.images == {
        "scored": digest(sorted(small_splits.victims.hashes())),
        "public": digest(sorted(small_splits.public.hashes())),
    }
    assert record.constant_mse == pytest.approx(constant_mse(small_splits.victims.pixels.numpy()))
    told = record.document()
    assert {"commit", "hardware", "torch", "time", "command", "version"} == told["provenance"].keys() - {"python"}
    assert "public_hashes" not in told["attack"]


def in_order(given):
    """What was rebuilt, in the order of the victims; ids are in another one."""
    rebuilt = Reconstructions.load(given / "attack" / "reconstructions.npz")
    places = [int(name.split("-")[1]) for name in rebuilt.ids]
    assert places != sorted(places)
    return rebuilt.images[np.argsort(places)]


def test_the_score_is_of_each_guess_against_its_own_victim(artifact, materials, tmp_path, small_splits):
    given = materials("joined")
    record = judged(artifact, given, tmp_path / "cell")
    truth = small_splits.victims.floats()
    assert record.scores["mse"].values == pytest.approx(mse(in_order(given), truth).tolist(), abs=1e-6)
    with np.load(tmp_path / "cell" / "pictures.npz") as pictures:
        assert np.array_equal(pictures["truth"], (truth * 255).round().byte().numpy())
        assert pictures["places"].tolist() == list(range(len(truth)))


def test_the_same_cell_has_the_same_id_and_another_seed_another(artifact, materials, tmp_path):
    given = materials("named")
    first = judged(artifact, given, tmp_path / "one")
    assert judged(artifact, given, tmp_path / "two", order=9).id == first.id
    path = given / "attack" / "attack.json"
    attack = json.loads(path.read_text())
    for changed in ({"seed": 1}, {"draws": 4}, {"views": 2}, {"knowledge": ["encoder"]}):
        path.write_text(json.dumps({**attack, **changed}))
        assert judged(artifact, given, tmp_path / "three", force=True).id != first.id, changed


def test_what_travelled_in_another_codec_has_another_id_and_its_record_says_so(artifact, materials, tmp_path):
    given = materials("sent")
    untold = judged(artifact, given, tmp_path / "untold")
    ledger = Ledger.read(given / "ledger.json")
    found = {}
    for codec in ("fp32", "uint8"):
        ledger.model_copy(update={"codec": codec}).write(given / "ledger.json")
        found[codec] = judged(artifact, given, tmp_path / codec)
        assert found[codec].wire.codec == codec
    assert found["fp32"].id == untold.id != found["uint8"].id
    assert untold.wire.codec is None


def test_a_cells_place_in_a_campaign_is_kept_and_changes_no_id(artifact, materials, tmp_path):
    given = materials("placed")
    place = FeaturesPlace(campaign="small", dataset="d", model="m", method="none", attack="decoder", seed=0, target="t")
    plain, placed = (
        make_record(
            artifact, given / "attack", given / "victims.npz", given / "ledger.json", tmp_path / "cell", 0, each
        )
        for each in (None, place)
    )
    assert placed.cell == place
    assert plain.cell is None
    assert placed.id == plain.id


def test_other_victims_of_the_same_size_get_no_record(artifact, materials, tmp_path, small_splits):
    given = materials("others")
    small_splits.test.select(torch.arange(40)).save(given / "victims.npz")
    with pytest.raises(ValueError, match="expected as truth the images that the ledger is of"):
        judged(artifact, given, tmp_path / "cell")
    assert not (tmp_path / "cell").exists()


@pytest.mark.parametrize("told", ["edge", "edge-cloud", None])
def test_only_the_target_of_the_ledger_gets_a_record(artifact, evaluator, materials, tmp_path, told):
    given, halves = materials("streamed"), [half_digest(artifact / half) for half in ("edge", "cloud")]
    streamed = Ledger.read(given / "ledger.json")
    model = None if told is None else "-".join(halves[: 1 + told.count("-")])
    streamed.model_copy(update={"model": model}).write(given / "ledger.json")
    assert judged(artifact, given, tmp_path / "cell").n == 40
    if told is None:  # an older ledger
        return
    with pytest.raises(ValueError, match=rf"judge: expected the target of the ledger, {model}, got"):
        judged(evaluator, given, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("which", ["edge", "cloud", "artifact"])
def test_only_the_target_whose_weights_the_attack_had_gets_a_record(artifact, evaluator, materials, tmp_path, which):
    given = materials("knew")
    digests = {each: half_digest(artifact / each) for each in ("edge", "cloud")} | {
        "artifact": artifact_digest(artifact)
    }
    path = given / "attack" / "attack.json"
    attack = {**json.loads(path.read_text()), "models": {which: digests[which]}}
    path.write_text(json.dumps(attack))
    assert judged(artifact, given, tmp_path / "cell").n == 40
    with pytest.raises(ValueError, match=rf"had the weights of, {which} {digests[which]}, got another"):
        judged(evaluator, given, tmp_path / "other")


def test_an_attack_that_does_not_tell_its_public_images_gets_no_record(artifact, materials, tmp_path):
    given = materials("emptied")
    path = given / "attack" / "attack.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "public_hashes": []}))
    with pytest.raises(
        ValueError, match=r"attack\.json: expected the hashes of the images that the attack knew, got none"
    ):
        judged(artifact, given, tmp_path / "cell")


@pytest.mark.parametrize("change", [lambda them: them[1:], lambda them: them[:1], lambda them: [*them, "0" * 24]])
def test_a_list_of_public_images_that_is_not_the_one_of_the_reconstructions_gets_no_record(
    artifact, materials, tmp_path, change
):
    given = materials("trimmed")
    path, rebuilt = given / "attack" / "attack.json", given / "attack" / "reconstructions.npz"
    document, made = json.loads(path.read_text()), Reconstructions.load(rebuilt)
    replace(made, public=digest(sorted(document["public_hashes"]))).save(rebuilt)
    judged(artifact, given, tmp_path / "cell")
    path.write_text(json.dumps({**document, "public_hashes": change(document["public_hashes"])}))
    with pytest.raises(ValueError, match=r"attack\.json: expected the hashes of all images that the attack knew"):
        judged(artifact, given, tmp_path / "other")


def test_gaps_of_the_capture_are_on_record_if_the_attack_told_of_any(artifact, materials, tmp_path):
    given = materials("gaps")
    assert "capture" not in judged(artifact, given, tmp_path / "cell").document()["threat_model"]
    path = given / "attack" / "attack.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "capture": {"gaps": 2, "lost": 7}}))
    assert judged(artifact, given, tmp_path / "cell").document()["threat_model"]["capture"] == {"gaps": 2, "lost": 7}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (
            lambda x: np.where(np.arange(x.size).reshape(x.shape) == 7, np.nan, x),
            "1 NaN, 0 infinite and 0 outside of 10240",
        ),
        (lambda x: x * 255, r"0 NaN, 0 infinite and \d+ outside, from 0 to 255 of 10240 values, in 40 of 40 images"),
        (lambda x: x * 2 - 1, r"0 NaN, 0 infinite and \d+ outside, from -1 to 1 of 10240 values, in 40 of 40 images"),
        (lambda x: np.where(x > 0.9, np.inf, x), r"0 NaN, \d+ infinite and 0 outside of 10240 values"),
        (lambda x: (x * 255).astype(np.uint8), r"got uint8 \(40, 1, 16, 16\)"),
        (lambda x: x[:, 0], r"got float32 \(40, 16, 16\)"),
        (lambda x: x[:39], "got 39 images and 40 different ids"),
        (lambda x: x.astype(str), "expected what `splitleak attack` writes"),
    ],
)
def test_what_no_picture_is_gets_no_record(artifact, materials, tmp_path, spoil, said):
    given = materials("spoilt")
    rebuilt = Reconstructions.load(given / "attack" / "reconstructions.npz")
    images = spoil(rebuilt.images.numpy())
    np.savez(given / "attack" / "reconstructions.npz", ids=np.array(rebuilt.ids), images=images)
    with pytest.raises(ValueError, match=said):
        judged(artifact, given, tmp_path / "cell")
    assert not (tmp_path / "cell").exists()


def test_a_perfect_rebuild_has_a_record_in_which_psnr_alone_is_capped_and_says_so(artifact, materials, tmp_path):
    record = judged(artifact, materials("perfect", noise=0), tmp_path / "cell")
    assert record == load_record(tmp_path / "cell")
    assert record.mean("mse") == 0
    assert record.mean("ssim") == pytest.approx(1)
    assert record.scores["psnr"].values == (100.0,) * 40
    assert {name: score.capped for name, score in record.scores.items() if score.capped} == {
        "psnr": 40,
        "batch_psnr": 1,
    }


def test_a_record_of_another_attack_is_replaced_with_force_alone(artifact, materials, tmp_path):
    given = materials("twice")
    first = judged(artifact, given, tmp_path / "cell")
    assert judged(artifact, given, tmp_path / "cell").id == first.id
    path = given / "attack" / "attack.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "seed": 7}))
    with pytest.raises(FileExistsError, match="--force replaces it"):
        judged(artifact, given, tmp_path / "cell")
    assert load_record(tmp_path / "cell").id == first.id
    assert judged(artifact, given, tmp_path / "cell", force=True).id != first.id


def test_an_attacker_who_owned_a_victim_gets_no_record(artifact, materials, tmp_path, small_splits):
    given = materials("cheat", public=small_splits.victims)
    with pytest.raises(ValueError, match="40 of them are the same"):
        judged(artifact, given, tmp_path / "cell")
    assert not (tmp_path / "cell").exists()


def test_a_missing_input_is_named(artifact, materials, tmp_path):
    given = materials("gone")
    (given / "ledger.json").unlink()
    with pytest.raises(FileNotFoundError, match="ledger"):
        judged(artifact, given, tmp_path / "cell")


def test_reclassified_is_what_the_evaluator_says_of_each_rebuilt_image(artifact, evaluator, materials, tmp_path):
    given = materials("reclassified", noise=0.3)
    plain, record = (
        judged(artifact, given, tmp_path / "cell", evaluator=each, force=True) for each in (None, evaluator)
    )
    model = load_whole(evaluator, torch.device("cpu"), seed=0)
    with np.load(tmp_path / "cell" / "pictures.npz") as pictures, np.load(given / "victims.npz") as victims:
        labels = torch.from_numpy(victims["labels"][pictures["places"]])
        truth = torch.from_numpy(pictures["truth"]).float() / 255
    with torch.no_grad():
        said, true = (
            model.cloud.head(model.edge.encoder(each)).argmax(1) == labels for each in (in_order(given), truth)
        )
    assert record.scores["reclassified"].values == tuple(said.double().tolist())
    assert record.mean("reclassified") == pytest.approx(said.double().mean().item())
    assert record.evaluator.document() == {
        "name": "judge",
        "accuracy": read_record(evaluator)["accuracy"],
        "architecture": "conv3",
        "seed": 7,
        "on_truth": pytest.approx(true.double().mean().item()),
    }
    assert record.id != plain.id
    assert plain.evaluator is None
    assert "reclassified" not in plain.scores


def test_an_evaluator_that_is_the_target_or_knows_other_classes_gets_no_record(
    artifact, evaluator, materials, tmp_path
):
    given = materials("unfit")
    with pytest.raises(ValueError, match="got the target itself"):
        judged(artifact, given, tmp_path / "cell", evaluator=artifact)
    shutil.copytree(evaluator, tmp_path / "other")
    for half in ("edge", "cloud"):
        path = tmp_path / "other" / half / "half.json"
        document = json.loads(path.read_text())
        write_json(path, {**document, "classes": document["classes"][::-1]})
    with pytest.raises(ValueError, match="expected an evaluator of"):
        judged(artifact, given, tmp_path / "cell", evaluator=tmp_path / "other")
    assert not (tmp_path / "cell").exists()


def test_victims_of_other_classes_than_the_evaluators_get_no_record(artifact, evaluator, materials, tmp_path):
    given = materials("renamed")
    with np.load(given / "victims.npz") as file:
        arrays = dict(file)
    np.savez(given / "victims.npz", **{**arrays, "classes": arrays["classes"][::-1]})
    with pytest.raises(ValueError, match="expected an evaluator of the victims' classes"):
        judged(artifact, given, tmp_path / "cell", evaluator=evaluator)


def test_the_attackers_images_are_on_record_as_what_they_were_found_to_be(artifact, materials, tmp_path, small_splits):
    given = materials("declared")
    put(small_splits, given)
    own = {"auxiliary": "same", "auxiliary_images": given / "public.npz"}
    record = judged(artifact, given, tmp_path / "cell", **own)
    own_images = record.threat_model.auxiliary
    assert own_images.kind == "same"
    assert own_images.images == 300
    assert own_images.checked.victims_images == 0
    plain = judged(artifact, given, tmp_path / "plain")
    assert plain.id == record.id
    assert plain.threat_model.auxiliary is None
    with pytest.raises(ValueError, match="declared 'distinct': expected another data set"):
        judged(artifact, given, tmp_path / "no", **{**own, "auxiliary": "distinct"})
    with pytest.raises(ValueError, match="300 images that the attack used, got others"):
        judged(artifact, given, tmp_path / "no", **{**own, "auxiliary_images": given / "test.npz"})
    with pytest.raises(ValueError, match="expected auxiliary images and what they are"):
        judged(artifact, given, tmp_path / "no", auxiliary="same")
    (given / "train.npz").unlink()
    with pytest.raises(FileNotFoundError, match="train"):
        judged(artifact, given, tmp_path / "no", **own)
    assert not (tmp_path / "no").exists()


def test_a_record_without_evaluator_and_declaration_has_the_id_it_always_had(artifact, materials, tmp_path):
    given = materials("old")
    made, attack = read_record(artifact), json.loads((given / "attack" / "attack.json").read_text())
    fields = ("attack", "config", "seed", "queries", "draws", "views", "knowledge")
    expected = digest([made["target"], made["dataset"], attack["public_hashes"], *(attack[key] for key in fields)])
    record = judged(artifact, given, tmp_path / "cell")
    assert record.id == expected


def test_the_command_passes_evaluator_and_declaration_on(artifact, evaluator, materials, tmp_path, small_splits):
    given = materials("command")
    put(small_splits, given)
    options = {
        "--artifact": artifact,
        "--attack": given / "attack",
        "--truth": given / "victims.npz",
        "--ledger": given / "ledger.json",
        "--out": tmp_path / "cell",
        "--evaluator": evaluator,
        "--auxiliary": "same",
        "--auxiliary-images": given / "public.npz",
        "--auxiliary-data": "builtin",
    }
    result = CliRunner().invoke(app, ["score", *(str(each) for pair in options.items() for each in pair), "--json"])
    assert result.exit_code == 0, result.output
    record = load_record(tmp_path / "cell")
    assert json.loads(result.output)["reclassified"] == record.mean("reclassified")
    assert (record.threat_model.auxiliary.kind, record.evaluator.name) == ("same", "judge")
