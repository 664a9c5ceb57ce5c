import numpy as np
import pytest
from scipy import stats

from splitleak.eval.report.seed_tests import SeedTest, corrected


def test_it_is_the_paired_t_test():
    before, after = np.array([3.0, 5.0, 4.0, 6.0]), np.array([1.0, 4.0, 3.5, 2.0])
    test, known = SeedTest.of(before - after), stats.ttest_rel(before, after)
    assert test.p == pytest.approx(known.pvalue)
    assert test.interval == pytest.approx(tuple(known.confidence_interval(0.95)))


def test_three_seeds_need_far_more_than_two_standard_errors():
    test = SeedTest.of([1.0, 2.0, 3.0])  # 3.5 standard errors
    assert test.sign == "cannot be told"
    assert 3 < test.needed < 10
    assert test.told == f"95 % interval -0.484 to 4.48, p 0.074; about {test.needed} seeds would tell"


def test_one_seed_tells_nothing():
    test = SeedTest.of([5.0])
    assert (test.p, test.sign, test.interval, test.needed, test.told) == (
        None,
        "cannot be told",
        None,
        None,
        "one seed",
    )


@pytest.mark.parametrize(
    ("value", "seeds", "sign"),
    [(2.0, 5, "cannot be told"), (2.0, 6, "above"), (-2.0, 6, "below"), (0.0, 6, "cannot be told")],
)
def test_what_never_varies_is_told_by_the_number_of_seeds_unless_it_is_nothing(value, seeds, sign):
    """Shares of few images are often the same in two or three seeds: that is no proof that they always are."""
    test = SeedTest.of([value] * seeds)
    assert (test.sign, test.interval) == (sign, None)
    assert test.p == (stats.binomtest(seeds, seeds).pvalue if value else 1)


def test_seeds_that_are_all_the_same_need_as_many_as_the_sign_test_does():
    alone, among = SeedTest.of([2.0] * 3), corrected([SeedTest.of([2.0] * 3), SeedTest.of([1.0, 3.0])])[0]
    assert alone.told == "the same in all seeds, p 0.25; about 6 seeds would tell"
    assert (alone.needed, among.needed) == (6, 7)
    assert SeedTest.of([2.0] * 6).sign == "above"


def test_nothing_is_told_of_differences_in_steps_more_often_than_the_level_says():
    """Accuracies on 40 images, of two targets that are equally good."""
    draw = np.random.default_rng(0)
    for seeds in (2, 3, 5):
        right = draw.binomial(40, 0.95, (2, 2000, seeds)) / 40
        told = [SeedTest.of(values).sign != "cannot be told" for values in right[0] - right[1]]
        assert np.mean(told) < 0.07


def test_holms_correction_steps_down_and_leaves_out_what_was_not_tested():
    tests = [SeedTest((1.0, 1.0), p) for p in (0.04, None, 0.01, 0.03)]
    found = corrected(tests)
    assert [test.p for test in found] == [0.06, None, 0.03, 0.06]
    assert [test.tests for test in found] == [3, 1, 3, 3]


def test_what_is_told_alone_may_not_be_among_many():
    alone = SeedTest.of([2.0, 2.2, 1.8])
    assert alone.sign == "above"
    many = corrected([alone] + [SeedTest.of([0.1, -0.2, 0.05])] * 20)[0]
    assert many.sign == "cannot be told"


def test_the_seeds_that_are_needed_have_the_power():
    draw = np.random.default_rng(0)
    needed = SeedTest.of([0.2, 1.0, 1.8, -0.6]).needed
    drawn = draw.normal(0.6, 1.0392, (4000, needed))
    told = stats.ttest_1samp(drawn, 0, axis=1).pvalue < 0.05
    assert 0.77 < told.mean() < 0.86
