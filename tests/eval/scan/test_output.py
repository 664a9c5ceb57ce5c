import csv
import json

import pytest

from splitleak.eval.scan.output import COLUMNS, judgement, limit, table_rows, verdict, write_scan
from splitleak.eval.scan.rows import CONSTANT, NOT_FINITE
from splitleak.eval.scan.scan import ANSWER, PICTURE, ScanConfig, scan


def rows(*ssims):
    """A document of cuts with these figures, a tenth of the MACs apart."""
    cuts = [PICTURE, *(f"cut{index}" for index in range(len(ssims) - 2)), ANSWER]
    found = [
        {
            "cut": cut,
            "defense": "none",
            "device_share": index / 10,
            "ssim": ssim,
            "leaks": ssim,
            "refound": {"moved": 1},
            "device_macs": index,
            "cloud_macs": 10 - index,
            "unmeasured": None,
        }
        for index, (cut, ssim) in enumerate(zip(cuts, ssims, strict=True))
    ]
    config = ScanConfig(share=0.2).document()
    there_are = len(cuts) - 2
    return {
        "rows": found,
        "mean_image": {"ssim": 0.1},
        "victims": 20,
        "config": config,
        "cuts_there_are": there_are,
    }


def test_the_verdict_names_the_last_cut_that_is_rebuilt_and_the_first_that_is_not():
    said = verdict(rows(1, 0.9, 0.5, 0.2, 0.1))
    assert said.startswith("Up to `cut1` (20 % of the MACs on the device) a linear map rebuilds")
    assert "the first cut below is `cut2` (SSIM 0.20), which puts 30 %" in said
    assert verdict(rows(1, 0.9, 0.5, 0.4)).endswith("no cut that was scanned is below.")
    assert verdict(rows(1, 0.2, 0.1, 0.1)).startswith("At no cut")


def test_pictures_count_as_rebuilt_only_if_they_are_better_than_the_mean_image():
    document = rows(1, 0.9, 0.5, 0.2)
    document["mean_image"]["ssim"] = 0.45
    assert verdict(document).startswith("Up to `cut0`")


@pytest.mark.parametrize(("most", "fails"), [(0.4, True), (0.5, False)])
def test_the_judged_cut_fails_above_the_limit(most, fails):
    failed, said = judgement(rows(1, 0.9, 0.5, 0.2), most)
    assert failed == fails
    assert "`cut1`" in said


def test_it_is_said_of_how_many_cuts_the_judged_one_was_chosen_where_there_are_more():
    document = rows(1, 0.9, 0.5, 0.2)
    assert "the choice" not in judgement(document, 0.4)[1]
    document["cuts_there_are"] = 90
    assert "`cut1` (20 % of the MACs on the device; the choice was of 2 of 90 cuts)" in judgement(document, 0.4)[1]
    document["config"]["cut"] = "cut1"
    assert "the choice" not in judgement(document, 0.4)[1]


@pytest.mark.parametrize("mean", [0.0, 0.5, 0.95, 0.999])
def test_no_verdict_asks_for_an_ssim_above_that_of_the_picture_itself(mean):
    document = rows(1, 1, 0.2, 0.1)
    document["mean_image"]["ssim"] = mean
    assert mean < limit(document) < 1
    assert verdict(document).startswith("Up to `cut0`")


def test_a_cut_that_was_not_measured_passes_nothing_and_is_no_cut_below():
    document = rows(1, 0.9, 0.2, 0.1, 0.1)
    document["rows"][2] |= {"ssim": None, "leaks": 0.1, "unmeasured": NOT_FINITE}
    failed, said = judgement(document, 0.4)
    assert failed
    assert said.startswith(f"FAILED: `cut1` (20 % of the MACs on the device) was not measured: {NOT_FINITE}")
    assert "the first cut below is `cut2`" in verdict(document)
    for row in document["rows"]:
        row["unmeasured"] = CONSTANT
    assert verdict(document).startswith("No cut could be measured")


def test_nothing_passes_by_a_few_victims_or_a_share_of_nothing():
    document = rows(1, 0.9, 0.2, 0.1)
    document["victims"] = 1
    with pytest.raises(ValueError, match="expected at least 8 victims to judge a cut by, got 1"):
        judgement(document, 0.4)
    document = rows(1, 0.9, 0.2, 0.1)
    for row in document["rows"]:
        row |= {"device_macs": 0, "cloud_macs": 0}
    with pytest.raises(ValueError, match="got none: name the cut to be judged by --cut"):
        judgement(document, 0.4)
    document["config"]["cut"] = "cut1"
    assert not judgement(document, 0.4)[0]


def test_a_limit_that_the_mean_image_fails_too_is_said_to_be_so():
    document = rows(1, 0.9, 0.5, 0.2)
    document["mean_image"]["ssim"] = 0.45
    assert judgement(document, 0.4)[1].endswith("The mean image alone has 0.450.")


def test_a_folder_holds_json_csv_a_plot_and_a_page_that_needs_no_other(tiny, owned, attacked, tmp_path, parsed):
    document, pictures = scan(tiny, owned, attacked, ScanConfig(latency=2, noise=(0.5,)))
    document = {"model": "<tiny>", "network": "abc", **document}
    out = tmp_path / "scan"
    write_scan(out, document, pictures, settings={"network": "abc"})
    assert {path.name for path in out.iterdir()} == {"scan.json", "scan.csv", "scan.png", "scan.html"}
    assert json.loads((out / "scan.json").read_text()) == document
    with (out / "scan.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["cut"] for line in lines] == [row["cut"] for row in document["rows"]]
    assert float(lines[1]["refound_moved"]) == document["rows"][1]["refound"]["moved"]
    assert (out / "scan.png").read_bytes().startswith(b"\x89PNG")
    page = parsed((out / "scan.html").read_text())
    assert all(link.startswith("data:image/png") for link in page.loaded)
    assert len(page.loaded) == 1 + 1 + 6
    assert "What <tiny> leaks" in "".join(page.text)
    assert all(len(line) == len(COLUMNS) for line in table_rows(document))
    with pytest.raises(FileExistsError, match="network 'abc' and not 'other'"):
        write_scan(out, document, pictures, settings={"network": "other"})
