import pytest
import torch

from splitleak.attacker.base import Run
from splitleak.attacker.training.rows import Stage, descend_rows

START = torch.tensor([[3.0, -2.0], [0.5, 0.5]])


def to_zero(rows, part):
    return rows.square().sum(1), torch.zeros(len(rows))


def test_each_row_descends_on_its_own_and_the_best_of_its_way_is_given():
    found = descend_rows(Stage("s", 100, 0.2), START, to_zero, Run(), "x")
    assert found.errors.max() < 5e-3
    alone = descend_rows(Stage("s", 100, 0.2), START[:1], to_zero, Run(), "x")
    assert torch.allclose(alone.rows, found.rows[:1])
    away = descend_rows(
        Stage("s", 5, 0.2), START, lambda rows, part: (to_zero(rows, part)[0], 1e3 * -rows.sum(1)), Run(), "x"
    )
    assert torch.equal(away.rows[1], START[1])


def test_rows_are_projected_after_each_step():
    found = descend_rows(Stage("s", 50, 0.2), START, to_zero, Run(), "x", constrain=lambda rows: rows.clamp_(min=1))
    assert (found.rows[0] >= 1).any()
    assert found.rows[1].equal(START[1])  # its start, which was never projected, is the best of its way


def test_interrupted_and_taken_up_again_it_gives_the_same(tmp_path, killed):
    noise = torch.full((2,), 0.5)
    whole = descend_rows(Stage("s", 60, 0.2), START, to_zero, Run(), "x", noise=noise)
    run = Run(checkpoint=tmp_path / "c", report=killed(1, "s"))
    with pytest.raises(KeyboardInterrupt):
        descend_rows(Stage("s", 60, 0.2), START, to_zero, run, "x", noise=noise)
    again = descend_rows(Stage("s", 60, 0.2), START, to_zero, Run(checkpoint=tmp_path / "c"), "x", noise=noise)
    assert torch.equal(again.rows, whole.rows)
    assert not list(tmp_path.iterdir())
