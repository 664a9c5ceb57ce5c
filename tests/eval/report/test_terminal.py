import pytest

from splitleak.artifacts import write_json
from splitleak.eval.report.results import Results
from splitleak.eval.report.terminal import columns, legend, rows
from tests.eval.report.test_sheets import found_again

PARTS = ("edge_ms", "wire_ms", "cloud_ms", "total_ms")


def latency(*names):
    return {
        "targets": {name: {part: {"p50": 1 + at, "p95": 2.5 + at} for at, part in enumerate(PARTS)} for name in names}
    }


@pytest.fixture
def shown(fake_record, tmp_path):
    """``shown(*names, timed=...)``: columns and rows of loose records of targets of these names."""

    def make(*names, timed=None, attacks=("decoder",)):
        for order, (name, attack) in enumerate((name, attack) for name in names for attack in attacks):
            place = {"id": str(order), "dataset": "d", "model": "m", "method": "Bottleneck", "plus": None, "seed": 0}
            record = fake_record({**place, "views": 1, "attack": attack, "target": name}, 0.01234, accuracy=0.8762)
            scores = {"mse": (0.01234, 0.00056), "ssim": (0.78949, 0.1), "psnr": (19.5, 1.25)}
            updated = {
                key: record.scores[key].model_copy(update={"mean": mean, "std": std})
                for key, (mean, std) in scores.items()
            }
            made = record.model_copy(update={"scores": {**record.scores, **updated}, "order": order})
            threat = made.threat_model.model_copy(update={"queries": 2000})
            made.model_copy(update={"threat_model": threat}).write(tmp_path / str(order) / "record.json")
        if timed is not None:
            write_json(tmp_path / "latency.json", timed)
        results = Results.load(tmp_path)
        return columns(results), rows(results)

    return make


def test_a_row_has_every_number_in_its_column(shown):
    names, (row,) = shown("target", timed=latency("target"))
    assert dict(zip(names, row, strict=True)) == {
        "target": "target",
        "accuracy %": "87.6",
        "MSE": "0.0123 ± 0.0006",
        "SSIM": "0.789 ± 0.100",
        "PSNR dB": "19.50 ± 1.25",
        "edge ms": "1.00 / 2.50",
        "wire ms": "2.00 / 3.50",
        "cloud ms": "3.00 / 4.50",
        "total ms": "4.00 / 5.50",
        "bytes/image": "2114",
        "queries": "2000",
    }


def test_a_target_without_a_latency_shows_a_dash(shown):
    _, (first, second) = shown("a", "b", timed=latency("b"))
    assert first[5:9] == ("-",) * 4
    assert second[5] == "1.00 / 2.50"


def test_rows_keep_the_order_of_the_records(shown):
    assert [row[0] for row in shown("z", "a")[1]] == ["z", "a"]


def test_the_attack_is_named_where_there_are_several(shown):
    names, found = shown("a", attacks=("decoder", "gan"))
    assert names[:2] == ("target", "attack")
    assert [row[:2] for row in found] == [("a", "decoder"), ("a", "gan")]
    assert {len(row) for row in found} == {len(names)}


def test_rows_of_one_target_are_told_apart_by_table_attack_and_seed(fake_campaign):
    """Two decoders of a campaign stood under one name, and so did the seeds: no row told which it was."""

    def change(cell, figures):
        cell["model"] = "wide" if cell["method"] == "PATROL" else "vgg"
        return not cell["plus"]

    folder = fake_campaign(change, methods=("Bottleneck", "PATROL"), attacks=("decoder", "decoder long"))
    results = Results.load(folder)
    assert columns(results)[:4] == ("target", "table", "attack", "seed")
    assert [row[:4] for row in rows(results)] == [
        (method, f"builtin, {model}", attack, seed)
        for method, model in (("Bottleneck", "vgg"), ("PATROL", "wide"))
        for attack in ("decoder", "decoder long")
        for seed in ("0", "1")
    ]


def test_what_many_crossings_give_and_how_often_pictures_are_found_again_are_columns(fake_campaign):
    def change(cell, figures):
        cell["views"] = 16 if "16" in cell["attack"] else 1
        figures["mse"] = 0.01 if cell["views"] == 16 else 0.02
        return not (cell["views"] == 16 and cell["plus"])

    attacks = ("decoder", "decoder 16 crossings")
    results = Results.load(
        fake_campaign(change, methods=("Bottleneck",), attacks=attacks, seeds=(0,), linkage=found_again)
    )
    names = columns(results)
    found = [dict(zip(names, row, strict=True)) for row in rows(results)]
    assert [row["target"] for row in found] == ["Bottleneck", "Bottleneck + CEM"]
    assert [row["MSE, 16 crossings"] for row in found] == ["0.0100", "-"]
    assert [row["found again %"] for row in found] == ["90.0", "90.0"]


def test_a_target_that_was_attacked_after_many_crossings_alone_has_a_row(fake_campaign):
    def change(cell, figures):
        cell["views"] = 16 if "16" in cell["attack"] else 1
        figures["mse"] = 0.01 if cell["views"] == 16 else 0.02
        return cell["views"] == 16 or not cell["plus"]

    attacks = ("decoder", "decoder 16 crossings", "gan 16 crossings")
    results = Results.load(fake_campaign(change, methods=("Bottleneck",), attacks=attacks, seeds=(0,)))
    names = columns(results)
    found = [dict(zip(names, row, strict=True)) for row in rows(results)]
    assert [row["target"] for row in found] == ["Bottleneck", "Bottleneck + CEM"]
    assert [row["MSE"][:6] for row in found] == ["0.0200", "-"]
    assert [row["MSE, 16 crossings"] for row in found] == ["0.0100", "0.0100"]


def test_the_legend_speaks_of_the_columns_that_there_are(fake_campaign):
    linked, bare = (
        Results.load(fake_campaign(**more)) for more in ({"linkage": found_again}, {"methods": ("PATROL",)})
    )
    assert ["Found again" in legend(results) for results in (linked, bare)] == [True, False]


def test_a_class_record_has_dashes_for_what_it_has_not(fake_predictions):
    folder = fake_predictions({"f": {"r": {"kind": "classes", "attack": "gmi"}}}, seeds=(0,))
    results = Results.load(folder)
    (row,) = rows(results)
    found = dict(zip(columns(results), row, strict=True))
    assert (found["target"], found["MSE"], found["SSIM"], found["bytes/image"]) == ("r", "0.0100 ± 0.1000", "-", "-")
