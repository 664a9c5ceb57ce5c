from splitleak.eval.scan.latency import evenly, time_halves
from splitleak.logs import silent


def test_halves_are_timed_and_the_whole_beside_them(tiny):
    found = time_halves(tiny, tiny.cuts(), 2, silent)
    assert list(found) == ["", "mixed", "flat"]
    assert found[""].keys() == {"whole_ms"}
    assert all(value > 0 for times in found.values() for value in times.values())


def test_few_of_many_are_the_first_the_last_and_some_between():
    assert evenly(100, 3) == [0, 50, 99]
    assert evenly(0, 3) == evenly(3, 0) == []
    assert evenly(5, 1) == [0]
