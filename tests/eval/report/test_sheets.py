import pytest

from splitleak.artifacts import write_json
from splitleak.config import read_document
from splitleak.eval.report.features_results import Campaign
from splitleak.eval.report.features_tables import csv_rows, differences, scores

GROUP = ("builtin", "vgg")


def shown(sheet):
    """The rows of a sheet by their first cell, each a dict from column to text."""
    names = [f"{heading} {name}".strip() for heading, name in sheet.columns]
    return {row[0].ours: dict(zip(names, map(str, row), strict=True)) for row in sheet.rows}


def test_the_layout_is_the_papers(fake_campaign):
    sheet = scores(Campaign.load(fake_campaign()), GROUP)
    assert sheet.headings == [("", 2), ("decoder", 3), ("gan", 3), ("without any attack", 2)]
    assert [row[0].ours for row in sheet.rows[:4]] == ["Bottleneck", "Bottleneck + CEM", "DistCorr", "DistCorr + CEM"]
    assert [row[0].ours for row in sheet.rows[-2:]] == ["Average without CEM", "Average with CEM"]


def test_the_published_figure_stands_beside_ours_and_a_misprint_is_marked(fake_campaign):
    sheet = scores(Campaign.load(fake_campaign()), GROUP)
    rows = shown(sheet)
    assert rows["Bottleneck"]["accuracy %"] == "90.00 ± 0.00 (68.43)"
    assert rows["Bottleneck"]["decoder MSE"] == "0.0100 ± 0.0001"
    assert rows["Noise_ARL + CEM"]["decoder PSNR dB"] == "12.84 ± 0.01 (16.27†)"
    assert rows["Average with CEM"]["gan PSNR dB"].endswith("(21.70†)")
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
    notes = scores(Campaign.load(fake_campaign(lambda cell, _: False, **config)), GROUP).notes
    assert any("Not the same images or model" in note for note in notes) != same


def test_the_width_that_was_trained_counts_not_the_one_left_open(fake_campaign):
    config = {"models": [{"name": "vgg", "architecture": "vgg11", "cut": None, "width": None}]}
    notes = scores(Campaign.load(fake_campaign(**config)), GROUP).notes
    assert any("Ours: builtin, vgg11, cut 4, width 0.25." in note for note in notes)


def test_without_a_published_table_nothing_stands_beside(fake_campaign):
    sheet = scores(Campaign.load(fake_campaign(published=None)), GROUP)
    assert shown(sheet)["Bottleneck"]["accuracy %"] == "90.00 ± 0.00"
    assert not any("published:" in note for note in sheet.notes)


def test_an_attack_that_saw_many_views_is_not_set_beside_the_papers(fake_campaign):
    folder = fake_campaign(attacks=("decoder x4", "decoder"))
    plan = read_document(folder / "campaign.json")
    plan["config"]["attacks"][0]["views"] = 4
    write_json(folder / "campaign.json", plan)
    rows = shown(scores(Campaign.load(folder), GROUP))
    assert rows["Bottleneck"]["decoder SSIM"].endswith("(0.975)")
    assert "(" not in rows["Bottleneck"]["decoder x4 SSIM"]


def test_one_seed_has_no_deviation_and_missing_ones_are_counted(fake_campaign):
    one = scores(Campaign.load(fake_campaign(seeds=(7,))), GROUP)
    assert shown(one)["PATROL"]["gan MSE"] == "0.0407"
    assert any(note.startswith("One seed (7)") for note in one.notes)


def test_missing_cells_are_dashes_and_partial_ones_say_of_how_many_seeds(fake_campaign):
    def missing(cell, figures):
        return cell["method"] != "PATROL" or (cell["seed"] == 0 and cell["attack"] == "decoder")

    rows = shown(scores(Campaign.load(fake_campaign(missing)), GROUP))
    assert rows["PATROL"]["decoder MSE"] == "0.0400 [1]"
    assert rows["PATROL"]["gan MSE"] == "-"
    assert rows["PATROL"]["gan SSIM"] == "- (0.634)"


def test_what_needs_no_attack_stands_at_the_end(fake_campaign):
    def leakage(cell):
        noisy = cell["method"] == "PATROL"
        measured = {"mse_bound": 0.00123, "fsinfo_nats_per_pixel": 1.5} if noisy else {}
        unbounded = {"mse_bound": 0.0, "fsinfo_nats_per_pixel": None, "effective_dimensions": 9.0}
        return {**unbounded, **measured, "assumptions": ["pixels are grey", "noise is noise"]}

    sheet = scores(Campaign.load(fake_campaign(leakage=leakage)), GROUP)
    rows = shown(sheet)
    assert rows["PATROL"]["without any attack MSE bound"] == "0.00123 ± 0"
    assert rows["PATROL"]["without any attack FSInfo"] == "1.5000 ± 0.0000"
    assert rows["DistCorr"]["without any attack MSE bound"] == "0 ± 0"
    assert rows["DistCorr"]["without any attack FSInfo"] == "-"
    assert "The bound assumes: pixels are grey; noise is noise." in sheet.notes


def test_differences_are_paired_by_seed(fake_campaign):
    sheet = differences(Campaign.load(fake_campaign()), GROUP)
    assert len(sheet.rows) == 5 * 3
    texts = [[text.ours for text in row] for row in sheet.rows[:3]]
    assert [row[:3] for row in texts] == [[texts[0][0], seed, "-0.30"] for seed in ("0", "1", "mean")]
    assert texts[0][5] == "+0.0020"


def test_the_csv_has_a_row_for_what_is_missing_too(fake_campaign):
    rows = list(csv_rows(Campaign.load(fake_campaign(lambda cell, _: cell["attack"] == "gan"))))
    assert len(rows) == 40
    assert {row["mse"] is None for row in rows if row["attack"] == "decoder"} == {True}
    assert rows[1]["method"] == "Bottleneck"
    assert all(row["ssim_valid"] == pytest.approx(row["ssim"] + 0.1) for row in rows if row["attack"] == "gan")


def test_where_codecs_are_swept_their_bytes_and_their_accuracy_on_the_wire_are_shown(fake_campaign):
    campaign = Campaign.load(
        fake_campaign(codecs={"DistCorr": "uint8"}, methods=("Bottleneck", "DistCorr"), seeds=(0,))
    )
    sheet = scores(campaign, GROUP)
    assert sheet.headings[:3] == [("", 2), ("on the wire", 2), ("decoder", 3)]
    row = shown(sheet)["DistCorr"]
    assert (row["on the wire accuracy %"], row["on the wire bytes/image"]) == ("90.00", "2114")
    assert {row["method"]: row["codec"] for row in csv_rows(campaign)} == {"Bottleneck": "fp32", "DistCorr": "uint8"}
