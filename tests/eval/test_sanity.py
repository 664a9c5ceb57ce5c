import pytest

from eval.sanity import flags


def record(errors, mean_image=1.0):
    history = [{"loss": 1.0, "held_out_mse": error} for error in errors]
    return {"attack": {"findings": {"history": history, "held_out_mse": min(errors), "mean_image_mse": mean_image}}}


def test_a_converged_attack_that_beats_the_mean_image_raises_no_doubt():
    assert flags(record([0.5, 0.2, 0.1, 0.1, 0.1])) == []


@pytest.mark.parametrize(("error", "doubted"), [(0.96, True), (0.94, False)])
def test_an_attack_hardly_better_than_the_mean_image_is_doubted(error, doubted):
    assert any(flag.startswith("mean image") for flag in flags(record([error] * 4))) == doubted


@pytest.mark.parametrize(("last", "doubted"), [(0.19, True), (0.199, False), (0.3, False)])
def test_an_attack_still_getting_better_at_its_end_is_doubted(last, doubted):
    found = flags(record([0.5, 0.4, 0.3, 0.2, last]))
    assert [flag.split(":")[0] for flag in found] == (["not converged"] if doubted else [])


def test_the_last_tenth_of_the_epochs_is_what_counts():
    falling = [0.5 - 0.01 * epoch for epoch in range(20)]
    assert flags(record(falling))
    assert flags(record([*falling, *[0.31] * 5])) == []


def test_an_attack_that_reports_no_errors_raises_no_doubt():
    assert flags({"attack": {"findings": {"steps": 3}}}) == []
    assert flags({"attack": {"findings": {"history": [{"loss": 1.0}]}}}) == []


def test_one_epoch_is_too_few_to_tell():
    assert flags(record([0.2])) == []
