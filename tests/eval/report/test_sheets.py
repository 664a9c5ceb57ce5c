import pytest

from splitleak.artifacts import write_json
from splitleak.config import read_document
from splitleak.eval.campaign.classes.config import STRONGEST
from splitleak.eval.report.report import write_report
from splitleak.eval.report.results import Results
from splitleak.eval.report.sheets import csv_rows, difference_sheet, score_sheets, summary_sheets

TABLE = "builtin, vgg"
CLASSES = {"kind": "classes", "attack": "mi-face"}
SHARES = {
    (figure, row, seed): share
    for figure, row, share in (
        ("GMI", "none", 0.8),
        ("PPA", "none", 0.7),
        ("GMI", "defended", 0.1),
        ("PPA", "defended", 0.2),
        ("GMI - other people", "none", 1.0),
        ("GMI - other people", "defended", 1.0),
    )
    for seed in (0, 1)
}


def scores_of(results):
    """The one table of scores of a campaign on features."""
    [sheet] = score_sheets(results, TABLE)
    return sheet


def scores(folder):
    return scores_of(Results.load(folder))


def shown(sheet):
    """The rows of a sheet by their first cell, each a dict from column to text."""
    names = [f"{heading} {name}".strip() for heading, name in sheet.columns]
    return {row[0].ours: dict(zip(names, map(str, row), strict=True)) for row in sheet.rows}


def test_the_layout_is_the_papers(fake_campaign):
    sheet = scores(fake_campaign())
    assert sheet.headings == [("", 1), ("classifier", 1), ("decoder", 3), ("gan", 3)]
    assert [row[0].ours for row in sheet.rows[:4]] == ["Bottleneck", "Bottleneck + CEM", "DistCorr", "DistCorr + CEM"]
    assert [row[0].ours for row in sheet.rows[-2:]] == ["Average without CEM", "Average with CEM"]


def test_the_published_figure_stands_beside_ours_and_a_misprint_is_marked(fake_campaign):
    sheet = scores(fake_campaign())
    rows = shown(sheet)
    assert rows["Bottleneck"]["classifier accuracy %"] == "90.00 ± 0.00 (68.43)"
    assert rows["Bottleneck"]["decoder MSE"] == "0.0100 ± 0.0001"
    assert rows["Noise_ARL + CEM"]["decoder batch PSNR dB"] == "12.84 ± 0.01 (16.27†)"
    notes = "\n".join(sheet.notes)
    assert "† Noise_ARL + CEM, decoder psnr: printed 16.27, must be 14.20: S5 gives" in notes
    assert "Not the same images or model" in notes


@pytest.mark.parametrize(
    ("data", "width", "same"), [("cifar100", 1.0, True), ("builtin", 1, False), ("cifar100", 0.5, False)]
)
def test_other_images_or_another_width_than_the_tables_are_marked(fake_campaign, data, width, same):
    config = {
        "datasets": [{"name": "builtin", "data": data}],
        "models": [{"name": "vgg", "architecture": "vgg11", "cut": 4, "width": width}],
    }
    notes = scores(fake_campaign(lambda cell, _: False, **config)).notes
    assert any("Not the same images or model" in note for note in notes) != same


def test_the_width_that_was_trained_counts_not_the_one_left_open(fake_campaign):
    config = {"models": [{"name": "vgg", "architecture": "vgg11", "cut": None, "width": None}]}
    notes = scores(fake_campaign(**config)).notes
    assert any("Ours: builtin, vgg11, cut 4, width 0.25." in note for note in notes)


def test_without_a_published_table_nothing_stands_beside(fake_campaign):
    sheet = scores(fake_campaign(published=None))
    assert shown(sheet)["Bottleneck"]["classifier accuracy %"] == "90.00 ± 0.00"
    assert not any("published:" in note for note in sheet.notes)


def test_an_attack_that_saw_many_views_is_not_set_beside_the_papers(fake_campaign):
    folder = fake_campaign(attacks=("decoder x4", "decoder"))
    plan = read_document(folder / "campaign.json")
    plan["config"]["attacks"][0]["views"] = 4
    write_json(folder / "campaign.json", plan)
    rows = shown(scores(folder))
    assert rows["Bottleneck"]["decoder zero-padded SSIM"].endswith("(0.975)")
    assert "(" not in rows["Bottleneck"]["decoder x4 zero-padded SSIM"]


def test_what_travelled_in_another_codec_or_by_fewer_queries_is_not_set_beside_the_papers(fake_campaign):
    folder = fake_campaign(attacks=("decoder", "gan"), codecs={"DistCorr": "uint8"})
    plan = read_document(folder / "campaign.json")
    plan["config"]["attacks"][1]["max_queries"] = 100
    write_json(folder / "campaign.json", plan)
    rows = shown(scores(folder))
    assert "(" in rows["Bottleneck"]["decoder zero-padded SSIM"]
    assert "(" not in rows["Bottleneck"]["gan zero-padded SSIM"]
    assert "(" not in rows["DistCorr"]["decoder zero-padded SSIM"]
    assert "(" in rows["DistCorr"]["classifier accuracy %"]


def test_one_seed_has_no_deviation_and_missing_ones_are_counted(fake_campaign):
    one = scores(fake_campaign(seeds=(7,)))
    assert shown(one)["PATROL"]["gan MSE"] == "0.0407"
    assert any(note.startswith("One seed (7)") for note in one.notes)


def test_missing_cells_are_dashes_and_partial_ones_say_of_how_many_seeds(fake_campaign):
    def missing(cell, figures):
        return cell["method"] != "PATROL" or (cell["seed"] == 0 and cell["attack"] == "decoder")

    rows = shown(scores(fake_campaign(missing)))
    assert rows["PATROL"]["decoder MSE"] == "0.0400 [1]"
    assert rows["PATROL"]["gan MSE"] == "-"
    assert rows["PATROL"]["gan zero-padded SSIM"] == "- (0.634)"


def test_what_needs_no_attack_stands_at_the_end(fake_campaign):
    def leakage(cell):
        noisy = cell["method"] == "PATROL"
        measured = {"mse_gaussian_estimate": 0.00123, "fsinfo_nats_per_pixel": 1.5} if noisy else {}
        without_noise = {"mse_gaussian_estimate": 0.0, "fsinfo_nats_per_pixel": None, "effective_dimensions": 9.0}
        return {**without_noise, **measured, "assumptions": ["pixels are grey", "noise is noise"]}

    sheet = scores(fake_campaign(leakage=leakage))
    rows = shown(sheet)
    assert rows["PATROL"]["without any attack MSE, Gaussian estimate"] == "0.00123 ± 0"
    assert rows["PATROL"]["without any attack FSInfo"] == "1.5000 ± 0.0000"
    assert rows["DistCorr"]["without any attack MSE, Gaussian estimate"] == "0 ± 0"
    assert rows["DistCorr"]["without any attack FSInfo"] == "-"
    assert any("It assumes: " in note for note in sheet.notes)
    assert sheet.headings[-1] == ("without any attack", 2)


def found_again(cell):
    """What `splitleak linkage` might have written of a target."""
    shares = {"plain": 0.6, "whitened": 0.5, "unordered": 1.0, "learned": 0.75}
    refound = {
        method: {
            view: {"share": share - 0.1 * lower, "error": 0.01, "crossings": [share]}
            for lower, view in enumerate(("same", "moved", "brighter", "mirrored"))
        }
        for method, share in shares.items()
    }
    pairs = {"rate": 0.25, "error": 0.01, "genuine": 90, "impostor": 900}
    probed = {"right": 0.9, "error": 0.02, "majority": 0.1, "victims": 40}
    counts = {"victims": 40, "public": 60, "queries": 360, "chance": 0.025}
    told = {"verified": {"0.01": pairs, "0.001": {**pairs, "rate": None}}, "label": probed, "attributes": {}}
    config = {"codec": cell.get("codec", "fp32")}
    return {"target": cell["target"], **counts, "refound": refound, **told, "config": config, "provenance": {}}


def test_what_features_tell_without_a_picture_has_columns_where_it_is_measured(fake_campaign, tmp_path, undrawn):
    campaign = fake_campaign(linkage=found_again, codecs={"DistCorr": "uint8"}, methods=("Bottleneck", "DistCorr"))
    sheet = scores(campaign)
    for row in ("Bottleneck", "DistCorr"):
        texts = {name.removeprefix("found again by the feature "): text for name, text in shown(sheet)[row].items()}
        found = [texts[f"{view} %"] for view in ("same", "moved", "brighter")]
        assert found == ["100.0 ± 0.0", "90.0 ± 0.0", "80.0 ± 0.0"]  # in the way that finds most
    assert any(note.startswith("Found again: ") for note in sheet.notes)
    [row, *_] = csv_rows(Results.load(campaign))
    names = ("refound", "refound_mirrored", "refound_plain", "refound_whitened", "told_alike", "label_read")
    assert [row[name] for name in names] == pytest.approx([100, 70, 45, 35, 25, 90])
    assert "refound_aligned" not in row  # of records from before it was measured
    write_report(campaign, tmp_path / "report")  # records alone tell it too
    again = Results.load(tmp_path / "report")
    assert [cell.linkage for cell in again.cells] == [cell.linkage for cell in Results.load(campaign).cells]
    assert not any(heading.startswith("found again") for heading, _ in scores(fake_campaign()).headings)


def test_a_way_to_find_pictures_that_older_records_lack_has_a_column_where_it_is_measured(fake_campaign):
    def by_means(cell):
        document = found_again(cell)
        document["refound"]["aligned"] = document["refound"]["plain"]
        return document

    row, *_ = csv_rows(Results.load(fake_campaign(linkage=by_means, methods=("Bottleneck",))))
    assert row["refound_aligned"] == pytest.approx(45)


def test_differences_are_paired_by_seed(fake_campaign):
    sheet = difference_sheet(Results.load(fake_campaign()), TABLE)
    assert len(sheet.rows) == 5 * 3
    texts = [[text.ours for text in row] for row in sheet.rows[:3]]
    assert [row[:3] for row in texts] == [[texts[0][0], seed, "-0.30"] for seed in ("0", "1", "mean")]
    assert texts[0][5] == "+0.0020"


def test_the_csv_has_a_row_for_what_is_missing_too(fake_campaign):
    rows = list(csv_rows(Results.load(fake_campaign(lambda cell, _: cell["attack"] == "gan"))))
    assert len(rows) == 40
    assert {row["mse"] is None for row in rows if row["attack"] == "decoder"} == {True}
    assert (rows[1]["row"], rows[1]["plus"], rows[1]["table"]) == ("Bottleneck", None, TABLE)
    assert all(row["ssim_valid"] == pytest.approx(row["ssim"] + 0.1) for row in rows if row["attack"] == "gan")


def test_where_codecs_are_swept_their_bytes_and_their_accuracy_on_the_wire_are_shown(fake_campaign):
    campaign = Results.load(fake_campaign(codecs={"DistCorr": "uint8"}, methods=("Bottleneck", "DistCorr"), seeds=(0,)))
    sheet = scores_of(campaign)
    assert sheet.headings[:4] == [("", 1), ("classifier", 1), ("on the wire", 2), ("decoder", 3)]
    row = shown(sheet)["DistCorr"]
    assert (row["on the wire accuracy %"], row["on the wire bytes/image"]) == ("90.00", "2114")
    assert {row["row"]: row["codec"] for row in csv_rows(campaign)} == {"Bottleneck": "fp32", "DistCorr": "uint8"}


def test_averages_are_over_methods_that_have_both_figures(fake_campaign):
    results = Results.load(fake_campaign(lambda cell, _: cell["method"] != "Noise_ARL" or not cell["plus"]))
    rows = shown(scores_of(results))
    expected = (0.01 + 0.015 + 0.04 + 0.02) / 4 + 0.00005
    assert rows["Average without CEM"]["gan MSE"] == f"{expected:.4f}"
    assert rows["Average with CEM"]["gan MSE"] == f"{expected + 0.002:.4f}"


def test_a_published_average_stands_beside_one_of_the_same_methods_alone(fake_campaign):
    """The mean of three of a paper's methods is not that of all of them."""
    every = ("Bottleneck", "DistCorr", "Dropout", "PATROL", "ResSFL", "Noise_Nopeek", "Noise_ARL")
    rows = shown(scores(fake_campaign(methods=every, seeds=(0,))))
    assert rows["Average with CEM"]["classifier accuracy %"] == "89.70 (65.75)"
    assert rows["Average with CEM"]["gan batch PSNR dB"].endswith("(21.70†)")
    rows = shown(scores(fake_campaign(methods=every[:3], seeds=(0,))))
    assert rows["Bottleneck"]["classifier accuracy %"] == "90.00 (68.43)"
    assert rows["Average with CEM"]["classifier accuracy %"] == "89.70"


def test_an_average_of_nothing_is_a_dash(fake_campaign):
    nothing = shown(scores(fake_campaign(lambda cell, _: False, published=None)))
    assert nothing["Average with CEM"]["gan MSE"] == "-"


def tables(folder):
    results = Results.load(folder)
    return [sheet for table in results.tables for sheet in score_sheets(results, table.name)]


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
        "classifier accuracy %": "90.00 ± 0.00",
        "rebuilt victims MSE": "0.0205 ± 0.0007",
        "rebuilt victims zero-padded SSIM": "0.500 ± 0.000",
        "rebuilt victims batch PSNR dB": "17.00 ± 0.00",
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
        del record["evaluator"], record["constant_mse"], record["scores"]["reclassified"]

    [table] = tables(fake_predictions(change=bare, seeds=(0,)))
    # The constant picture's error is that of the pictures beside a record that does not tell it.
    assert [name for _, name in table.columns] == [
        "row",
        "accuracy %",
        "zero-padded SSIM",
        "batch PSNR dB",
        "MSE",
        "constant",
    ]
    assert "One seed (0)" in table.notes[0]


def test_what_a_policy_costs_is_told_where_there_is_one(fake_predictions):
    [table] = tables(fake_predictions({"f": {"open": {}, "purified": {"purify": {}}}}))
    assert cells(table)["purified"]["behind its policy accuracy %"] == "88.00 ± 0.00"
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


def test_the_csv_of_figures_has_one_row_a_planned_cell_and_place_with_unrounded_figures(fake_predictions):
    rows = {"m = 1": {"share": 1}, "noisy": {"policy": {"sigma": 0.1}}}
    folder = fake_predictions({"a": rows, "b": {"m = 1": rows["m = 1"]}}, lambda record: record["cell"]["seed"] == 1)
    found = list(csv_rows(Results.load(folder)))
    assert [(row["table"], row["row"], row["seed"]) for row in found] == [
        *(("a", row, seed) for row in rows for seed in (0, 1)),
        *(("b", "m = 1", seed) for seed in (0, 1)),
    ]
    assert (found[0]["mse"], found[1]["mse"]) == (None, 0.03 + 0.001)
    assert found[3]["policy"] == '{"sigma": 0.1}'


def test_the_csv_of_loose_records_tells_runs_of_one_attack_apart(fake_record, tmp_path):
    """By what they asked, as the tables do: all stood under the attack's name alone."""
    about = {"dataset": "builtin", "model": "vgg", "method": "Bottleneck", "plus": None, "seed": 0, "target": "t"}
    for queries in (100, 400):
        record = fake_record({**about, "id": f"r{queries}", "attack": "decoder", "views": 1}, queries=queries)
        record.model_copy(update={"cell": None, "order": queries}).write(tmp_path / f"{queries}" / "record.json")
    found = [row["attack"] for row in csv_rows(Results.load(tmp_path))]
    assert found == ["decoder, 100 answers", "decoder, 400 answers"]


def test_the_table_says_which_attack_it_was_and_how_sure_each_share_is(attacked):
    [sheet] = summary_sheets(attacked(SHARES | {("PPA", "none", 1): 0.9}))
    assert [name for _, name in sheet.columns] == [
        "target",
        "accuracy %",
        "GMI",
        "PPA",
        STRONGEST,
        "which",
        "losses",
        "which",
    ]
    none, defended = ([str(text) for text in row] for row in sheet.rows)
    assert none[0] == "none"
    assert none[5] == "GMI 1, PPA 1"
    assert defended[4] == "20.0 ± 0.0 (±25.0)"  # hits 0, 1, 1, 1: a deviation of a half over two
    assert defended[5] == "PPA 2"
    assert defended[7] == "GMI 2"


def test_a_campaign_without_a_table_of_attacks_has_no_such_table(fake_predictions):
    assert summary_sheets(Results.load(fake_predictions())) == []
