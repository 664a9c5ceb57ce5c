import json
from collections import Counter
from pathlib import Path

import pytest

from splitleak.artifacts import write_json
from splitleak.config import read_document
from splitleak.eval.record.schema import (
    FILE,
    VERSION,
    ClassesRecord,
    FeaturesPlace,
    FigurePlace,
    Leakage,
    VictimsRecord,
    brief,
    load_lines,
    load_record,
    parse_place,
    parse_record,
)

RESULTS = Path(__file__).parents[3] / "eval" / "results"
LINES = sorted(RESULTS.glob("*/records.jsonl"))
DEMO = sorted(path for path in RESULTS.glob("demo/seed*/*.json") if path.name != "latency.json")

MADE = {"command": "splitleak", "commit": "abc", "hardware": "abacus", "python": "3", "torch": "2", "time": "then"}
MODEL = {"architecture": "vgg11", "cut": 4, "width": 0.25, "channels": 1, "size": 32, "classes": 10}
STACK = [{"name": "bottleneck", "config": {"channels": 8}}]
OLD_TARGET = {
    "name": "t",
    "target": {"model": MODEL, "defenses": STACK, "training": {"epochs": 3}, "seed": 1},
    "dataset": {"dataset": "builtin", "config": {"seed": 1}, "images": {"train": {"count": 5, "digest": "d"}}},
    "accuracy": 0.9,
    "provenance": MADE,
}
OLD_ATTACK = {
    "attack": "decoder",
    "config": {"epochs": 2, "start": None},
    "seed": 1,
    "queries": 300,
    "draws": 2,
    "views": 4,
    "knowledge": ["public", "query"],
    "rebuilt": 4,
    "findings": {"held_out_mse": 0.1, "history": [{"loss": 0.5}], "own": [1]},
    "provenance": MADE,
}
SPREAD = {"mean": 0.1, "std": 0.01, "values": [0.1, 0.1]}
OLD_FEATURES = {
    "id": "of-what-made-it",
    "order": 2,
    "cell": {
        "id": "cell",
        "campaign": "c",
        "dataset": "builtin",
        "model": "vgg11",
        "method": "Bottleneck",
        "plus": None,
        "attack": "my decoder",
        "kind": "decoder",
        "seed": 1,
        "views": 4,
        "target": "t",
    },
    "target": OLD_TARGET,
    "attack": OLD_ATTACK,
    "wire": {"images": 4, "bytes_per_image": 99.5, "accuracy": 0.75},
    "score": {"n": 4, "mse": SPREAD, "ssim": SPREAD, "batch_psnr": 10.0},
    "provenance": MADE,
}
FIGURE = {"id": "cell", "campaign": "c", "figure": "f", "row": "r", "dataset": "builtin", "seed": 1, "target": "t"}
OLD_SCORES = {
    **{key: OLD_FEATURES[key] for key in ("id", "order", "target", "wire", "provenance")},
    "cell": {
        **FIGURE,
        "kind": "victims",
        "classes": 5,
        "auxiliary": "generic",
        "share": 3,
        "policy": {"top": 3},
        "purify": None,
        "attack": "prediction-inversion",
        "service": {"accuracy": 0.8, "accuracy_without": 0.9, "distortion": 0.1, "changed": 0, "policy": {"top": 3}},
    },
    "attack": {**OLD_ATTACK, "attack": "prediction-inversion"},
    "auxiliary": {
        "kind": "generic",
        "dataset": "builtin",
        "images": 20,
        "classes": ["a"],
        "checked": {"victims_images": 0, "training_images": 0, "target_classes": 0, "how": "by pixels"},
    },
    "score": {"n": 4, "mse": SPREAD, "reclassified": SPREAD, "batch_psnr": 10.0},
    "evaluator": {"name": "E", "accuracy": 0.95, "architecture": "cnn", "seed": 1001, "on_truth": 0.9},
    "constant_mse": 0.07,
    "places": [["f", "r"]],
}
OLD_CLASSES = {
    "id": "of-what-made-it",
    "cell": {**FIGURE, "kind": "classes", "attack": "mi-face", "service": None},
    "target": OLD_TARGET,
    "attack": {
        **{key: value for key, value in OLD_ATTACK.items() if key != "views"},
        "attack": "mi-face",
        "access": "model",
        "adaptive": True,
        "ignores_output_policy": True,
        "prior": "p",
    },
    "score": {"n": 2, "chance": 0.1, **dict.fromkeys(("recognised", "nearest_mean", "mse"), SPREAD)},
    "evaluator": {"name": "E", "accuracy": 0.95, "on_truth": 0.9},
    "provenance": MADE,
}


def leaves(document):
    """Every figure and word of a JSON document, however deep."""
    if isinstance(document, dict | list):
        for part in document.values() if isinstance(document, dict) else document:
            yield from leaves(part)
    elif document is not None:
        yield document


def lost(old):
    """What an old document says more often than the record made of it does."""
    return set(Counter(leaves(old)) - Counter(leaves(parse_record(old, source="old").document())))


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, marks=[pytest.mark.slow] * (path.stat().st_size > 2**20), id=path.parent.name)
        for path in LINES
    ],
)
def test_every_recorded_result_is_read_whole_and_reads_back_the_same(path):
    documents = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    records = load_lines(path)
    assert len(records) == len(documents) > 0
    for document, record in zip(documents, records, strict=True):
        assert parse_record(record.document(), source="again") == record
        assert not lost(document) - {document["cell"].get("kind")}


@pytest.mark.parametrize("path", DEMO, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_record_of_a_demo_is_read_whole_and_reads_back_the_same(path):
    document = read_document(path)
    record = parse_record(document, source=str(path))
    assert isinstance(record, VictimsRecord)
    assert parse_record(record.document(), source="again") == record
    assert not lost(document)


def test_there_are_recorded_results():
    assert len(LINES) == 19
    assert len(DEMO) == 9


def test_a_record_of_features_of_version_1_is_brought_up_to_date_field_by_field():
    record = parse_record(OLD_FEATURES, source="old")
    assert isinstance(record, VictimsRecord)
    assert (record.version, record.kind, record.id, record.order, record.n) == (3, "victims", "of-what-made-it", 2, 4)
    place = {key: value for key, value in OLD_FEATURES["cell"].items() if key not in ("kind", "plus")}
    assert record.cell == FeaturesPlace(**place)
    assert (record.target.name, record.target.digest, record.target.accuracy) == ("t", None, 0.9)
    assert record.target.design.model.document() == MODEL
    assert record.target.design.names == ("bottleneck",)
    assert record.target.design.defenses[0].config == {"channels": 8}
    assert (record.target.design.training, record.target.design.seed) == ({"epochs": 3}, 1)
    assert record.target.dataset.document() == OLD_TARGET["dataset"]
    assert (record.attack.name, record.attack.config) == ("decoder", {"epochs": 2, "start": None})
    assert (record.attack.seed, record.attack.rebuilt) == (1, 4)
    assert record.attack.findings.document() == {"held_out_mse": 0.1, "history": [{"loss": 0.5}], "own": [1]}
    assert record.threat_model.document() == {
        "sees": "features",
        "knowledge": ["public", "query"],
        "queries": 300,
        "draws": 2,
        "views": 4,
        "adaptive": False,
        "ignores_output_policy": False,
    }
    assert record.wire.document() == OLD_FEATURES["wire"]
    assert record.scores["mse"].document() == SPREAD
    assert record.scores["batch_psnr"].document() == {"mean": 10.0}
    assert set(record.scores) == {"mse", "ssim", "batch_psnr"}
    for made in (record.provenance, record.target.provenance, record.attack.provenance):
        assert made.document() == MADE
    assert (record.service, record.evaluator, record.constant_mse, record.images) == (None, None, None, {})
    assert lost(OLD_FEATURES) == {"decoder"}  # which stood there twice


def test_a_record_of_shared_scores_of_version_1_is_brought_up_to_date_field_by_field():
    record = parse_record(OLD_SCORES, source="old")
    assert isinstance(record, VictimsRecord)
    assert isinstance(record.cell, FigurePlace)
    assert (record.cell.kind, record.cell.share, record.cell.policy) == ("victims", 3, {"top": 3})
    assert (record.cell.classes, record.cell.auxiliary, record.cell.figure) == (5, "generic", "f")
    assert record.service.document() == OLD_SCORES["cell"]["service"]  # of the record, no longer of its place
    assert record.threat_model.sees == "scores"
    assert record.threat_model.auxiliary.document() == OLD_SCORES["auxiliary"]
    assert record.evaluator.document() == OLD_SCORES["evaluator"]
    assert (record.constant_mse, record.places) == (0.07, (("f", "r"),))
    assert record.mean("reclassified") == 0.1
    assert lost(OLD_SCORES) == set()


def test_a_record_of_classes_of_version_1_is_brought_up_to_date_field_by_field():
    record = parse_record(OLD_CLASSES, source="old")
    assert isinstance(record, ClassesRecord)
    assert (record.kind, record.chance, record.n, record.order) == ("classes", 0.1, 2, 0)
    assert set(record.scores) == {"recognised", "nearest_mean", "mse"}
    assert (record.attack.prior, record.service, record.figures, record.wire) == ("p", None, None, None)
    threat = record.threat_model
    assert (threat.sees, threat.access, threat.adaptive, threat.ignores_output_policy) == (
        "nothing",
        "model",
        True,
        True,
    )
    assert (threat.queries, threat.draws, threat.views) == (300, 2, 1)
    assert lost(OLD_CLASSES) == set()


def test_a_record_that_no_campaign_planned_has_no_place_and_needs_no_id():
    old = {key: value for key, value in OLD_FEATURES.items() if key not in ("cell", "order", "id")}
    record = parse_record(old, source="old")
    assert (record.cell, record.order, record.id) == (None, 0, "")
    assert "cell" not in record.document()


def test_of_an_attack_no_longer_known_the_service_tells_what_it_saw():
    for old, sees in ((OLD_FEATURES, "features"), (OLD_SCORES, "scores")):
        unknown = {**old, "attack": {**old["attack"], "attack": "forgotten"}}
        assert parse_record(unknown, source="old").threat_model.sees == sees


def test_what_is_written_is_read_and_what_is_not_there_is_not_written(tmp_path):
    record = parse_record(OLD_FEATURES, source="old")
    record.write(tmp_path / FILE)
    assert load_record(tmp_path) == record
    written = read_document(tmp_path / FILE)
    assert written["version"] == VERSION == 3
    assert not {"service", "evaluator", "constant_mse", "places", "leakage"} & written.keys()
    assert written["attack"]["config"]["start"] is None  # a setting that is none is one


def test_a_brief_record_has_no_values_of_images_and_no_history_but_keeps_the_rest():
    record = parse_record(OLD_SCORES, source="old")
    short = record.brief()
    assert short.scores["mse"].document() == {"mean": 0.1, "std": 0.01}
    assert short.attack.findings.history is None
    assert short.attack.findings.held_out_mse == 0.1
    same = ("scores", "attack")
    assert short.model_dump(exclude=same) == record.model_dump(exclude=same)
    assert parse_record(short.document(), source="again") == short


def test_a_brief_document_has_no_values_histories_or_long_lists():
    document = {"a": {"values": [1], "mean": 2}, "history": [], "long": [0] * 17, "few": [{"values": 1, "b": [0] * 16}]}
    assert brief(document) == {"a": {"mean": 2}, "few": [{"b": [0] * 16}]}


def test_a_brief_document_keeps_who_was_recognised_and_no_other_value_of_a_picture():
    hits = [[1, 0]] * 20
    record = {"top1": {"hits": hits, "images": 40}, "mse": {"mean": 0.1, "images": [[0.1, 0.1]] * 2}, "scores": [[0.9]]}
    assert brief(record) == {"top1": {"hits": hits, "images": 40}, "mse": {"mean": 0.1}}


def test_a_brief_record_has_no_long_list_of_an_attacks_own():
    findings = {"curve": list(range(50)), "few": [1, 2], "held_out_mse": 0.1, "history_2": [{"loss": 1.0}] * 60}
    record = parse_record({**OLD_FEATURES, "attack": {**OLD_ATTACK, "findings": findings}}, source="old")
    assert record.brief().attack.findings.document() == {"few": [1, 2], "held_out_mse": 0.1}


def test_a_brief_record_of_classes_keeps_who_was_recognised():
    value = {"mean": 0.1, "images": [[0.1, 0.2]]}
    figures = {
        "n": 2,
        "classes": 1,
        "images_per_class": 2,
        "chance": 1.0,
        "evaluator_on_private": 1.0,
        "top1": {"mean": 0.5, "images": 2, "hits": [[1, 0]]},
        **dict.fromkeys(("target_confidence", "delta_eval", "delta_eval_squared", "centroid_eval"), value),
        "identification": {
            **{"chance": 1.0, "people": 1, "distractors": 0, "gallery": 3, "ranks": [[1, 1]]},
            "private_alone": {"chance": 1.0},
            "verification": {"false_match_rate": 0.01, "comparisons": 0},
        },
        "prior": {"samples": 4, "shares": [1.0], "classes_drawn": 1, "confidence": 0.5, "histogram": [4]},
    }
    record = parse_record({**OLD_CLASSES, "figures": figures}, source="old")
    short = record.brief().figures
    assert short.top1.hits == ((1, 0),)
    assert short.delta_eval.document() == {"mean": 0.1}
    assert (short.identification.gallery, short.prior) == (3, record.figures.prior)


def without(document, *path):
    copy = json.loads(json.dumps(document))
    part = copy
    for name in path[:-1]:
        part = part[name]
    del part[path[-1]]
    return copy


CURRENT = parse_record(OLD_FEATURES, source="old").document()


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([CURRENT], "expected a record, got list"),
        ("record", "expected a record, got str"),
        (None, "expected a record, got NoneType"),
        ({**CURRENT, "version": 4}, "expected a record of version 1 to 3, got 4; update splitleak"),
        ({**CURRENT, "version": [3]}, r"expected a record of version 1 to 3, got \[3\]"),
        ({**CURRENT, "version": "3"}, "expected a record of version 1 to 3, got '3'"),
        ({**CURRENT, "kind": "sounds"}, "expected a record of kind victims or classes, got 'sounds'"),
        (without(CURRENT, "kind"), "expected a record of kind victims or classes, got 'None'"),
        (without(CURRENT, "scores"), "expected a VictimsRecord, but scores: Field required"),
        (without(CURRENT, "target", "accuracy"), r"expected a VictimsRecord, but target\.accuracy: Field required"),
        ({**CURRENT, "colour": "red"}, "expected a VictimsRecord, but colour: Extra inputs are not permitted"),
        ({**CURRENT, "n": "many"}, "expected a VictimsRecord, but n: .*got 'many'"),
        ({}, "expected a key 'attack'"),
        (without(OLD_FEATURES, "score"), "expected a key 'score'"),
        (without(OLD_FEATURES, "score", "n"), "expected a record of version 1, but KeyError: 'n'"),
        ({**OLD_FEATURES, "target": 7}, "expected a record of version 1, but TypeError"),
        ({**OLD_FEATURES, "target": "seven"}, "expected a record of version 1, but ValueError"),
    ],
)
def test_what_is_no_record_is_one_clear_error_that_names_the_file(tmp_path, document, said):
    write_json(tmp_path / FILE, document)
    with pytest.raises(ValueError, match=rf"record\.json: {said}") as refused:
        load_record(tmp_path)
    assert str(refused.value).startswith(f"{tmp_path / FILE}: ")
    assert "\n" not in str(refused.value)


def test_a_broken_line_is_named_by_its_number(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text(f"{json.dumps(CURRENT)}\n{json.dumps(OLD_CLASSES)}\n")
    assert [record.kind for record in load_lines(path)] == ["victims", "classes"]
    path.write_text(f"{json.dumps(CURRENT)}\n{json.dumps(CURRENT)[:50]}\n")
    with pytest.raises(ValueError, match=r"records\.jsonl, line 2: expected valid JSON, but "):
        load_lines(path)
    path.write_text(f"{json.dumps(CURRENT)}\n{json.dumps({**CURRENT, 'version': 9})}\n")
    with pytest.raises(ValueError, match=r"records\.jsonl, line 2: expected a record of version 1 to 3, got 9"):
        load_lines(path)
    with pytest.raises(FileNotFoundError):
        load_lines(tmp_path / "nothing.jsonl")


def test_a_file_that_is_no_json_is_named(tmp_path):
    (tmp_path / FILE).write_text("{")
    with pytest.raises(ValueError, match=r"record\.json: expected valid JSON"):
        load_record(tmp_path)
    with pytest.raises(FileNotFoundError):
        load_record(tmp_path / "nothing")


def test_a_place_is_of_a_campaign_on_features_or_of_figures():
    features = {"dataset": "d", "model": "m", "method": "x", "attack": "a", "seed": 0, "target": "t"}
    assert parse_place(features, source="plan") == FeaturesPlace(**features)
    figures = {"kind": "classes", "dataset": "d", "attack": "a", "seed": 0, "target": "t"}
    assert parse_place(figures, source="plan") == FigurePlace(**figures)
    with pytest.raises(ValueError, match=r"plan: expected a FeaturesPlace, but kind: Extra"):
        parse_place({**features, "kind": "decoder"}, source="plan")
    with pytest.raises(ValueError, match=r"cell\.toml: expected a FigurePlace, but kind: Field required"):
        parse_place({"figure": "10"}, source="cell.toml")


def test_a_leakage_in_brief_is_its_figures_alone():
    whole = Leakage(
        target="t", mse_gaussian_estimate=0.1, image_dimensions=9, assumptions=("a",), config={"samples": 2}
    )
    assert whole.brief().document() == {"mse_gaussian_estimate": 0.1, "image_dimensions": 9}


def test_what_version_2_called_a_bound_is_read_as_the_estimate_that_it_is():
    old = {**CURRENT, "version": 2, "leakage": {"mse_bound": 0.1, "image_dimensions": 9}}
    read = parse_record(old, source="old")
    assert (read.version, read.leakage) == (3, Leakage(mse_gaussian_estimate=0.1, image_dimensions=9))
    assert read.document()["leakage"] == {"mse_gaussian_estimate": 0.1, "image_dimensions": 9}


def test_a_leakage_file_of_before_is_read_too(tmp_path):
    (tmp_path / "leakage.json").write_text('{"target": "t", "mse_bound": 0.1}')
    assert Leakage.read(tmp_path / "leakage.json") == Leakage(target="t", mse_gaussian_estimate=0.1)
