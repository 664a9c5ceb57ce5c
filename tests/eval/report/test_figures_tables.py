from splitleak.eval.report.figures_results import PredictionResults
from splitleak.eval.report.figures_tables import csv_rows, sheets

CLASSES = {"kind": "classes", "attack": "mi-face"}


def tables(folder):
    results = PredictionResults.load(folder)
    return [table for figure in results.figures for table in sheets(results, figure)]


def cells(table):
    names = [f"{heading} {name}".strip() for heading, name in table.columns]
    return {row[0].ours: dict(zip(names, (text.ours for text in row), strict=True)) for row in table.rows}


def test_a_row_of_victims_has_its_scores_and_what_to_read_them_beside(fake_predictions):
    def known(record):
        record["evaluator"]["on_truth"] = 0.93

    [table] = tables(fake_predictions(change=known))
    assert list(cells(table)) == ["m = 1", "m = 3"]
    row = cells(table)["m = 3"]
    assert float(row.pop("rebuilt victims constant").split(" ± ")[0]) > 0.05
    assert row == {
        "row": "m = 3",
        "classifier accuracy %": "90.0 ± 0.0",
        "rebuilt victims MSE": "0.0205 ± 0.0007",
        "rebuilt victims SSIM": "0.500 ± 0.000",
        "rebuilt victims PSNR dB": "17.00 ± 0.00",
        "right class by the evaluator % rebuilt": "70.0 ± 0.0",
        "right class by the evaluator % victims": "93.0 ± 0.0",
        "right class by the evaluator % test images": "95.0 ± 0.0",
        "attacker's own held-out images MSE": "0.0200 ± 0.0000",
        "attacker's own held-out images mean image": "0.0800 ± 0.0000",
    }
    assert "over 2 seeds (0, 1)" in table.notes[0]


def test_figures_that_no_record_has_take_no_column(fake_predictions):
    def bare(record):
        record["attack"]["findings"] = {}
        del record["evaluator"]

    [table] = tables(fake_predictions(change=bare, seeds=(0,)))
    assert len(table.columns) == 7
    assert "One seed (0)" in table.notes[0]


def test_what_a_policy_costs_is_told_where_there_is_one(fake_predictions):
    [table] = tables(fake_predictions({"f": {"open": {}, "purified": {"purify": {}}}}))
    assert cells(table)["purified"]["behind its policy accuracy %"] == "88.0 ± 0.0"
    assert cells(table)["purified"]["behind its policy distortion"] == "0.125 ± 0.000"
    assert any("Distortion" in note for note in table.notes)


def test_pictures_of_classes_stand_in_a_table_of_their_own_with_the_chance(fake_predictions):
    victims, classes = tables(fake_predictions({"f": {"a": {}, "b": {**CLASSES, "classes": 5}}}))
    assert (list(cells(victims)), list(cells(classes))) == (["a"], ["b"])
    row = cells(classes)["b"]
    assert row["pictures of classes recognised %"] == "40.0 ± 0.0"
    assert row["pictures of classes nearest mean %"] == "90.0 ± 0.0"
    assert row["pictures of classes chance %"] == "20.0 ± 0.0"
    assert row["pictures of classes target's confidence"] == "0.999 ± 0.000"


def test_a_white_box_under_a_policy_has_the_figures_without_and_says_so(fake_predictions):
    rows = {"open": CLASSES, "label only": {**CLASSES, "id": "open", "policy": {"label_only": True}}}
    [table] = tables(fake_predictions({"f": rows}))
    found = cells(table)
    assert list(found["open"].values())[1:] == list(found["label only †"].values())[1:]
    assert table.notes[-1].startswith("† ")


def test_a_row_of_fewer_seeds_says_how_many(fake_predictions):
    folder = fake_predictions(change=lambda record: (record["cell"]["row"], record["cell"]["seed"]) != ("m = 1", 1))
    [table] = tables(folder)
    assert cells(table)["m = 1"]["rebuilt victims MSE"] == "0.0300 [1]"


def test_the_csv_has_one_row_a_planned_cell_and_place_with_unrounded_figures(fake_predictions):
    rows = {"m = 1": {"share": 1}, "noisy": {"policy": {"sigma": 0.1}}}
    folder = fake_predictions({"a": rows, "b": {"m = 1": rows["m = 1"]}}, lambda record: record["cell"]["seed"] == 1)
    found = list(csv_rows(PredictionResults.load(folder)))
    assert [(row["figure"], row["row"], row["seed"]) for row in found] == [
        *(("a", row, seed) for row in rows for seed in (0, 1)),
        *(("b", "m = 1", seed) for seed in (0, 1)),
    ]
    assert (found[0]["mse"], found[1]["mse"]) == (None, 0.03 + 0.001)
    assert found[3]["policy"] == '{"sigma": 0.1}'
