from dataclasses import replace

import pytest

from splitleak.attacker.reconstruction import ATTACKS
from splitleak.attacker.run import AttackConfig
from splitleak.eval.campaign.audit.attacks import Sizes, audit_entries
from splitleak.eval.campaign.audit.config import AuditConfig, kind_of

NOISY = Sizes(pairs=2000, victims=200, feature_shape=(8, 8, 8), image_shape=(1, 32, 32), randomised=True)


def names(threat="black-box", minutes=15.0, sizes=NOISY):
    return [entry.name for entry in audit_entries(AuditConfig(threat=threat, minutes=minutes), sizes)]


def test_the_list_goes_from_the_floors_to_the_longest_training_as_far_as_the_budget_goes():
    assert names(minutes=0.1) == ["nearest"]
    assert names(minutes=2.1) == ["nearest", "linear", "decoder"]
    assert names(minutes=2.5) == ["nearest", "linear", "decoder", "decoder 100 queries"]
    assert names(minutes=4) == ["nearest", "linear", "decoder", "decoder 16 crossings"]
    everything = names(minutes=60)
    assert everything[:4] == names(minutes=4)
    assert {"decoder 1000 queries", "decoder 300 queries", "decoder 100 queries"} < set(everything)
    assert {"decoder 4 crossings", "decoder 64 crossings", "decoder mirrored longer"} < set(everything)


def test_the_longer_training_takes_what_is_left_and_at_most_four_times_as_long():
    epochs = {}
    for minutes in (12, 14, 60, 600):
        entries = audit_entries(AuditConfig(minutes=minutes), NOISY)
        epochs[minutes] = [entry.settings["epochs"] for entry in entries if entry.name == "decoder mirrored longer"]
    assert epochs[60] == epochs[600] == [80]
    assert epochs[12] in ([], [each for each in epochs[12] if 30 <= each < 80])


def test_a_target_that_draws_nothing_is_seen_once_and_asked_once():
    clear = replace(NOISY, randomised=False)
    entries = audit_entries(AuditConfig(minutes=60), clear)
    assert {(entry.views, entry.crossings, entry.draws) for entry in entries} == {(1, 1, 1)}
    assert not any("crossings" in entry.name for entry in entries)


def test_few_images_have_no_curve_and_a_large_capture_fewer_crossings():
    few = replace(NOISY, pairs=250)
    assert [name for name in names(minutes=60, sizes=few) if "queries" in name] == ["decoder 100 queries"]
    large = replace(NOISY, feature_shape=(64, 32, 32))
    crossings = {entry.crossings for entry in audit_entries(AuditConfig(minutes=600), large)}
    assert crossings == {1}


def test_all_attacks_of_a_target_share_one_capture_and_a_curve_has_one_answer_an_image():
    entries = audit_entries(AuditConfig(minutes=60), NOISY)
    shared = {(entry.crossings, entry.draws) for entry in entries if not entry.mirrored}
    assert shared == {(64, 64)}
    mirrored = [(entry.name, entry.crossings, entry.draws) for entry in entries if entry.mirrored]
    assert {each[1:] for each in mirrored} == {(16, 16)}
    assert [each[0] for each in mirrored] == [
        "decoder mirrored",
        "decoder mirrored 16 crossings",
        "decoder mirrored longer",
        "decoder mirrored longer 16 crossings",
    ]
    assert all(
        (entry.answers == 1) == (entry.max_queries is not None) for entry in entries if entry.attack == "decoder"
    )


def test_mirror_images_are_asked_about_as_often_as_a_capture_has_room_for():
    wide = replace(NOISY, feature_shape=(14, 16, 16))  # 16 crossings of 2,200 pictures fit, of 4,200 do not
    entries = {entry.name: entry for entry in audit_entries(AuditConfig(minutes=600), wide)}
    assert entries["decoder 16 crossings"].draws == 16
    assert entries["decoder mirrored"].draws == 8
    assert "decoder mirrored 16 crossings" not in entries


@pytest.mark.parametrize("side", [8, 16, 20, 24, 32, 40])
def test_a_capture_has_as_many_crossings_as_any_attack_on_it_averages(side):
    """Of wide features 4 crossings may fit where 16 do not, with mirror images or without."""
    wide = replace(NOISY, feature_shape=(14, side, side))
    for entry in audit_entries(AuditConfig(threat="white-box", minutes=6000), wide):
        assert entry.crossings % entry.views == entry.draws % entry.views == 0


@pytest.mark.parametrize("threat", ["black-box", "white-box", "no-queries"])
def test_what_is_strongest_at_one_crossing_runs_on_the_mean_of_several_where_the_budget_allows(threat):
    everything = names(threat, minutes=600)
    trained = {kind_of(name) for name in everything if not name.endswith("queries")} - {"nearest", "linear"}
    assert {f"{name} 16 crossings" for name in trained} < set(everything)
    alone = names(threat, minutes=600, sizes=replace(NOISY, randomised=False))
    assert not any("crossings" in name for name in alone)


@pytest.mark.parametrize("threat", ["black-box", "white-box", "no-queries"])
def test_every_attack_of_the_list_is_ours_and_needs_what_its_threat_model_has(threat):
    known = {"public", "labels", "head", "fresh_encoder"}
    known |= {"no-queries": set(), "black-box": {"query"}, "white-box": {"query", "encoder"}}[threat]
    for entry in audit_entries(AuditConfig(threat=threat, minutes=600), NOISY):
        assert entry.attack in ATTACKS
        assert AttackConfig(attack=entry.attack, settings=entry.settings).build().needs <= known


def test_the_budget_alone_decides_not_the_clock():
    config = AuditConfig(minutes=15)
    assert audit_entries(config, NOISY) == audit_entries(config, NOISY)
