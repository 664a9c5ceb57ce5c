import pytest

from splitleak.artifacts import write_json
from splitleak.eval.report.features_results import Campaign, Spread, averages, row_label

GROUP = ("builtin", "vgg")


def test_a_spread_of_one_has_no_deviation_and_of_none_is_none():
    assert Spread.of([1.0, 2.0, 3.0]) == Spread(2.0, 1.0, 3)
    assert Spread.of([5.0]) == Spread(5.0, None, 1)
    assert Spread.of([]) is None


def test_figures_over_seeds_are_those_of_the_records(fake_campaign):
    campaign = Campaign.load(fake_campaign())
    assert campaign.groups == (GROUP,)
    assert campaign.rows[:2] == (("Bottleneck", None), ("Bottleneck", "CEM"))
    assert campaign.pairs[0] == campaign.rows[:2]
    assert (campaign.attacks, campaign.seeds) == (("decoder", "gan"), (0, 1))
    found = campaign.by_seed(GROUP, ("PATROL", "CEM"), "mse", "gan")
    assert found == {0: pytest.approx(0.042), 1: pytest.approx(0.0421)}
    assert campaign.spread(GROUP, ("PATROL", "CEM"), "accuracy") == Spread(pytest.approx(89.7), 0.0, 2)
    assert campaign.spread(("other", "vgg"), ("PATROL", "CEM"), "mse", "gan") is None


def test_differences_are_of_seeds_that_have_both(fake_campaign):
    campaign = Campaign.load(fake_campaign(lambda cell, _: cell["id"] != "PATROLCEM1-gan"))
    pair = (("PATROL", None), ("PATROL", "CEM"))
    assert campaign.differences(GROUP, pair, "mse", "gan") == {0: pytest.approx(0.002)}
    assert set(campaign.differences(GROUP, pair, "mse", "decoder")) == {0, 1}


def test_averages_are_over_methods_that_have_both_figures(fake_campaign):
    campaign = Campaign.load(fake_campaign(lambda cell, _: cell["method"] != "Noise_ARL" or not cell["plus"]))
    without, with_plus = averages(campaign, GROUP, "mse", "gan")
    expected = (0.01 + 0.015 + 0.04 + 0.02) / 4 + 0.00005
    assert (without, with_plus) == (pytest.approx(expected), pytest.approx(expected + 0.002))
    nothing = Campaign.load(fake_campaign(lambda cell, _: False, leakage=None))
    assert nothing.cells
    assert averages(nothing, GROUP, "bound", None) == [None, None]


def test_the_strongest_attack_is_the_one_closest_to_the_victims(fake_campaign):
    def weaker_gan(cell, figures):
        if cell["attack"] == "gan":
            figures |= {"mse": 0.2, "ssim": 0.9}

    campaign = Campaign.load(fake_campaign(weaker_gan))
    assert campaign.strongest(GROUP, ("PATROL", None), "mse").mean == pytest.approx(0.04005)
    assert campaign.strongest(GROUP, ("PATROL", None), "ssim").mean == pytest.approx(0.9)
    assert campaign.strongest(GROUP, ("Rabbit", None), "ssim") is None


def test_cells_of_another_plan_are_not_looked_at(fake_campaign):
    folder = fake_campaign()
    write_json(folder / "cells" / "stray" / "score" / "record.json", {"strange": True})
    assert len(list(Campaign.load(folder).measured)) == 40


def test_a_row_is_named_as_in_the_paper():
    assert (row_label(("ResSFL", None)), row_label(("ResSFL", "CEM"))) == ("ResSFL", "ResSFL + CEM")
