import signal
import subprocess
import sys
import threading

import pytest

from splitleak.eval.campaign.leases import Leases

HOLDER = """
import sys, time
from pathlib import Path
from splitleak.eval.campaign.leases import Leases
leases = Leases(Path(sys.argv[1]), "1-of-2", beat_s=0.02, dead_s=0.3)
with leases.living():
    print(leases.take("job"), flush=True)
    time.sleep(60)
"""


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


def of(folder, role, clock=None, **settings):
    """By its own clock it takes nobody for dead, however late a thread of this busy machine is."""
    own_clock = {} if clock is None else {"clock": clock}
    return Leases(folder, role, **{"beat_s": 0.01, "dead_s": 0.2 if clock else 60, **own_clock, **settings})


def test_a_lease_has_one_holder_until_it_is_given_back(tmp_path):
    one, two = of(tmp_path, "1-of-2"), of(tmp_path, "2-of-2")
    with one.living(), two.living():
        assert one.take("job")
        assert not two.take("job")
        assert not one.take("job")
        assert two.take("other")
        one.give_back("job")
        assert two.take("job")
        assert not one.take("job")


def test_who_leaves_gives_all_leases_back_and_no_sign_of_life_stays(tmp_path):
    one, two = of(tmp_path, "1-of-2"), of(tmp_path, "2-of-2")
    with one.living():
        assert one.take("a")
        assert one.take("b")
    assert two.roles() == set()
    with two.living():
        assert two.take("a")
        assert one.roles() == {"2-of-2"}


def test_of_many_who_want_a_lease_at_once_one_gets_it(tmp_path):
    everyone = [of(tmp_path, f"{number}-of-8") for number in range(1, 9)]
    meeting, taken = threading.Barrier(8), []

    def want(leases):
        with leases.living():
            meeting.wait(20)
            taken.append(leases.take("job"))
            meeting.wait(20)

    threads = [threading.Thread(target=want, args=(leases,)) for leases in everyone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == [False] * 7 + [True]


def test_the_lease_of_who_gives_no_sign_of_life_is_taken_over_once(tmp_path, clock):
    dead, two, three = (of(tmp_path, f"{number}-of-3", clock, beat_s=60) for number in (1, 2, 3))
    (tmp_path / "leases" / "alive").mkdir(parents=True)
    (tmp_path / "leases" / "alive" / dead.holder).write_text("7")
    (tmp_path / "leases" / "job.1").write_text(dead.holder)
    with two.living(), three.living():
        assert not two.take("job")  # seen for the first time
        clock.seconds += 0.1
        assert not two.take("job")
        assert not three.take("job")
        clock.seconds += 0.15
        assert not three.take("job")  # which has not watched for long enough
        assert two.take("job")
        clock.seconds += 0.1
        assert not three.take("job")
        two.give_back("job")
        clock.seconds += 1
        assert three.take("job")


def test_who_was_taken_over_and_wakes_frees_nothing_that_another_holds(tmp_path, clock):
    stopped, two, three = (of(tmp_path, f"{number}-of-3", clock, beat_s=60) for number in (1, 2, 3))
    with two.living(), three.living():
        with stopped.living():
            assert stopped.take("job")
            assert not two.take("job")
            clock.seconds += 0.1
            assert not two.take("job")
            clock.seconds += 1
            assert two.take("job")
            stopped.give_back("job")
        assert not three.take("job")
        two.give_back("job")
        assert three.take("job")


def test_who_was_stopped_with_all_others_takes_none_of_them_for_dead_as_it_wakes(tmp_path, clock):
    one, two = (of(tmp_path, f"{number}-of-2", clock, beat_s=60) for number in (1, 2))
    with one.living(), two.living():
        assert one.take("job")
        for beat in range(3):
            assert not two.take("job")
            clock.seconds += 3600  # of a suspended machine
            assert not two.take("job")
            (tmp_path / "leases" / "alive" / one.holder).write_text(str(beat + 1))
        assert not two.take("job")
        clock.seconds += 3600
        assert not two.take("job")
        clock.seconds += 0.1
        assert two.take("job")  # nothing came of it meanwhile


def test_of_two_who_take_a_lease_as_its_dead_holder_leaves_one_has_it(tmp_path, clock, monkeypatch):
    stopped, two, three = (of(tmp_path, f"{number}-of-3", clock, beat_s=60) for number in (1, 2, 3))
    with stopped.living(), two.living(), three.living():
        assert stopped.take("job")
        assert not two.take("job")
        clock.seconds += 0.1
        assert not two.take("job")
        clock.seconds += 1
        is_free = two._is_free

        def slowly(*lease):
            free = is_free(*lease)
            stopped.give_back("job")
            assert three.take("job")
            return free

        monkeypatch.setattr(two, "_is_free", slowly)
        assert not two.take("job")
        monkeypatch.undo()
        three.give_back("job")
        assert two.take("job")


@pytest.mark.parametrize("said", [b"", b"\xff\0", b"../../elsewhere", b"..", b"x" * 5000])
def test_a_lease_without_a_name_is_being_made_or_was_when_its_holder_died(tmp_path, clock, said):
    one = of(tmp_path, "1-of-2", clock, beat_s=60)
    with one.living():
        (tmp_path / "leases" / "job.1").write_bytes(said)
        assert not one.take("job")
        clock.seconds += 0.1
        assert not one.take("job")
        clock.seconds += 0.2
        assert one.take("job")


def test_a_living_holder_is_noticed_and_a_dead_one_is_not(tmp_path):
    alone = of(tmp_path, "alone")
    assert alone.living_holder() is None
    one = of(tmp_path, "1-of-2")
    with one.living():
        assert alone.living_holder() == one.holder
    assert alone.living_holder() is None
    (tmp_path / "leases" / "alive" / one.holder).write_text("7")
    assert of(tmp_path, "alone", dead_s=0.2).living_holder() is None
    alone.forget()
    assert list((tmp_path / "leases" / "alive").iterdir()) == []


def test_a_killed_process_loses_its_lease(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "True\n"
        two, soon = of(tmp_path, "2-of-2"), of(tmp_path, "2-of-2", dead_s=0.2)
        waited = threading.Event()
        with two.living():
            for _ in range(30):
                assert not two.take("job")
                waited.wait(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        with soon.living():
            for _ in range(200):
                if soon.take("job"):
                    break
                waited.wait(0.02)
            else:
                pytest.fail("the lease was never lost")


def test_who_lives_watches_the_others_and_takes_over_at_once_what_it_comes_to_late(tmp_path):
    one, two = (of(tmp_path, f"{number}-of-2", dead_s=0.1) for number in (1, 2))
    (tmp_path / "leases" / "alive").mkdir(parents=True)
    (tmp_path / "leases" / "alive" / one.holder).write_text("7")
    (tmp_path / "leases" / "job.1").write_text(one.holder)
    with two.living():
        threading.Event().wait(0.4)  # at something else
        assert two.take("job")
