"""Flags of an attack that is weaker than another on the same target; those on floors and starts are in test_flags."""

from dataclasses import replace

from splitleak.eval.report.comparisons import weaker_attacks
from splitleak.eval.report.flags import cell_flags
from tests.eval.report.test_flags import cell, kinds, results


def test_an_attack_trained_longer_that_finds_more_doubts_the_shorter_one():
    short, longer = cell(mse=0.02, epochs=10), cell("decoder longer", 0.0195, epochs=20)
    longer = replace(
        longer,
        record=longer.record.model_copy(
            update={"attack": short.record.attack.model_copy(update={"config": {"epochs": 20}})}
        ),
    )
    found = [(flagged.attack, flag) for flagged, flag, _ in cell_flags(results([short, longer]))]
    assert found == [("decoder", "not converged: trained 2.0 times as long it finds more (MSE 0.0195 beside 0.0200)")]
    same = replace(longer, record=longer.record.model_copy(update={"scores": short.record.scores}))
    assert kinds([short, same]) == []


def test_an_attack_of_an_audit_weaker_than_a_cheaper_one_is_doubted():
    asked = {"queries": 100}
    cheap, dear = cell("audit - decoder", 0.02, knows=asked), cell("audit - ensemble", 0.021, knows=asked)
    assert kinds([cheap, dear]) == [("audit - ensemble", "cheaper")]
    assert kinds([dear, cheap]) == []
    assert kinds([cheap, cell("gan", 0.021, knows=asked)]) == []
    assert kinds([cheap, cell("audit - ensemble", 0.021, knows={"queries": 50})]) == []
    alone = [cell("decoder", 0.02, knows=asked), cell("ensemble", 0.021, knows=asked)]
    assert kinds(alone) == []
    [(_, flag, _)] = cell_flags(replace(results(alone), kind="audit"))
    assert flag == "cheaper: weaker than decoder, which stands before it (MSE 0.0210 beside 0.0200)"


def test_other_settings_or_other_answers_are_no_longer_training():
    short = cell(mse=0.02, epochs=10)
    for other in (cell(mse=0.01, epochs=20, blocks=9), cell(mse=0.01, epochs=20, knows={"queries": 9})):
        assert list(weaker_attacks([(each, each.record) for each in (short, other)])) == []
