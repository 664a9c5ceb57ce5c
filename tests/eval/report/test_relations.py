import pytest

from splitleak.eval.report.relations import relations
from splitleak.eval.report.results import Results

TABLE = "builtin, vgg"
ESTIMATE = "The Gaussian estimate of the MSE is at most that of every attack that sees an image once"


def leaks(estimate):
    return {
        "mse_gaussian_estimate": estimate,
        "fsinfo_nats_per_pixel": 0.5,
        "effective_dimensions": 9.0,
        "assumptions": ["none"],
    }


def verdicts(folder):
    return {found.text: found for found in relations(Results.load(folder))[TABLE]}


def test_records_that_obey_the_paper_break_nothing(fake_campaign):
    found = verdicts(fake_campaign(leakage=lambda cell: leaks(0.001)))
    assert {each.verdict for each in found.values()} == {"holds"}
    assert len(found) == 2 * 3 + 1 + 2 * 2 + 2 + 2
    assert found[ESTIMATE].figures == "40 of 40 cells"


@pytest.mark.parametrize(
    ("change", "statement", "said"),
    [
        (("CEM", {"mse": 0.001}), "+ CEM raises the MSE of every method against gan", "not in PATROL -0.0391"),
        (
            ("CEM", {"ssim": 0.99}),
            "+ CEM lowers the zero-padded SSIM of every method against gan",
            "4 of 5; not in PATROL",
        ),
        (("CEM", {"accuracy": 0.8}), "+ CEM moves the accuracy by at most 0.7 points", "not in PATROL -10.00"),
        ((None, {"mse": 0.001}), "Bottleneck is the weakest method against gan", "PATROL 0.0010 < Bottleneck"),
        ((None, {"mse": 0.001}), "PATROL and Noise_ARL are the two strongest methods against gan", "< Noise_ARL 0.05"),
        ((None, {"psnr": 30}), "-10 log10(MSE) is the batch's PSNR within 0.14 dB", "PATROL, gan, seed"),
    ],
)
def test_what_breaks_a_relation_is_named_with_its_figures(fake_campaign, change, statement, said):
    plus, figures_of_one = change

    def spoil(cell, figures):
        if (cell["method"], cell["plus"]) == ("PATROL", plus):
            figures |= figures_of_one

    found = verdicts(fake_campaign(spoil))
    assert found[statement].verdict == "does not hold"
    assert said in found[statement].figures


def test_less_error_under_more_noise_is_named(fake_campaign):
    def spoil(cell, figures):
        if (cell["method"], cell["plus"]) == ("Noise_ARL", None):
            figures["mse"] = 0.001

    found = verdicts(fake_campaign(spoil))["More noise on the wire, all else equal, raises the MSE against decoder"]
    assert found.verdict == "does not hold"
    assert "Noise_ARL 0.0010, Noise_Nopeek 0.0200" in found.figures
    assert "PATROL" not in found.figures


def test_noise_is_not_compared_between_codecs(fake_campaign):
    claim = "More noise on the wire, all else equal, raises the MSE against decoder"

    def coded(cell, figures):
        if cell["method"] == "Noise_ARL":
            cell["codec"] = "uint8"

    named = [verdicts(fake_campaign(change))[claim].figures for change in (lambda cell, figures: None, coded)]
    assert ["Noise_ARL" in figures for figures in named] == [True, False]


def test_an_attack_below_the_estimate_is_named(fake_campaign):
    found = verdicts(fake_campaign(leakage=lambda cell: leaks(0.0118)))
    broken = found[ESTIMATE]
    assert broken.verdict == "does not hold"
    assert "36 of 40; not in Bottleneck, decoder, seed 0 (0.0100, estimate 0.0118)" in broken.figures


def test_where_nothing_is_noisy_there_is_no_estimate_to_hold(fake_campaign):
    """It is 0 then, and any error is above it."""
    found = verdicts(fake_campaign(leakage=lambda cell: leaks(0.0 if cell["plus"] else 0.001)))
    assert (found[ESTIMATE].verdict, found[ESTIMATE].figures) == ("holds", "20 of 20 cells")
    found = verdicts(fake_campaign(leakage=lambda cell: leaks(0.0)))
    assert found[ESTIMATE].verdict == "not measured"


def test_what_is_not_there_is_not_measured(fake_campaign):
    found = verdicts(fake_campaign(lambda cell, _: False))
    assert {each.verdict for each in found.values()} == {"not measured"}


def test_a_campaign_of_other_methods_is_judged_on_what_it_has(fake_campaign):
    found = verdicts(fake_campaign(methods=("DistCorr",)))
    assert found["Bottleneck is the weakest method against gan"].verdict == "not measured"
    assert found["PATROL and Noise_ARL are the two strongest methods against gan"].verdict == "not measured"
    assert found["+ CEM raises the MSE of every method against gan"].figures == "1 of 1: DistCorr +0.0020"


def test_a_row_without_defenses_is_no_method(fake_campaign):
    found = verdicts(fake_campaign(methods=("Undefended", "Bottleneck", "PATROL", "Noise_ARL")))
    weakest = found["Bottleneck is the weakest method against gan"]
    assert weakest.verdict == "holds"
    assert "Undefended" not in weakest.figures


def test_a_relation_has_a_margin_with_its_error_over_seeds(fake_campaign):
    def more_each_seed(cell, figures):
        figures["mse"] += 0.0001 * cell["seed"] * bool(cell["plus"])

    found = verdicts(fake_campaign(more_each_seed))
    raises = found["+ CEM raises the MSE of every method against gan"]
    assert raises.margin == pytest.approx(0.00205)
    assert raises.error == pytest.approx(0.00005)
    assert raises.margin_text == "0.00205 ± 5e-05"


def test_relations_are_of_seeds_that_have_all_rows(fake_campaign):
    """Else the luck of one seed, in which all errors are large, decides between rows that lack it and that have it."""

    def change(cell, figures):
        figures["mse"] += 10 * (cell["seed"] == 1)
        strong = cell["method"] in ("Noise_ARL", "PATROL", "Noise_Nopeek")
        return not (strong and cell["seed"] == 1)

    table = next(iter(relations(Results.load(fake_campaign(change))).values()))
    held = {each.text: each.verdict for each in table}
    assert held["Bottleneck is the weakest method against decoder"] == "holds"
    assert held["PATROL and Noise_ARL are the two strongest methods against decoder"] == "holds"


def test_figures_of_predictions_and_loose_records_have_no_relations(fake_predictions):
    assert relations(Results.load(fake_predictions())) == {}
