import pytest
import torch
from torch import nn
from torch.optim import SGD, Adam

from splitleak.training.fit import Resumable, epochs, step_ranges


class Run:
    """A small training that draws, keeps and counts, under one of two optimisers."""

    def __init__(self, kind="adam", identity="mine", seed=0):
        self.draw = torch.Generator().manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
        for index, parameter in enumerate(self.model.parameters()):
            nn.init.constant_(parameter, 0.1 * (seed + index + 1))
        parameters = list(self.model.parameters())
        optimizer = Adam(parameters, lr=0.1) if kind == "adam" else SGD(parameters, lr=0.1, momentum=0.9)
        self.optimizer = optimizer
        self.state = Resumable(identity, {"model": self.model}, {"opt": optimizer}, {"draw": self.draw})
        self.done = []

    def run(self, total, checkpoint=None, stop_at=None, every_s=0.0):
        def report(what, done, total, figures):
            self.done.append(done)
            if done == stop_at:
                raise KeyboardInterrupt

        for epoch in epochs("test", total, self.state, checkpoint, report, every_s=every_s):
            loss = self.model(torch.rand(8, 3, generator=self.draw)).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.state.kept[f"best{epoch}"] = loss.detach()
            self.state.history.append({"loss": float(loss.detach())})
        return self

    @property
    def weights(self):
        return [value.clone() for value in self.model.state_dict().values()]


def same(one, other):
    return (
        all(torch.equal(a, b) for a, b in zip(one.weights, other.weights, strict=True))
        and one.state.history == other.state.history
        and one.state.kept.keys() == other.state.kept.keys()
        and torch.equal(one.draw.get_state(), other.draw.get_state())
    )


def test_a_long_epoch_is_reported_within_and_a_short_one_as_a_whole(monkeypatch):
    now, heard = 0.0, []
    monkeypatch.setattr("time.monotonic", lambda: now)
    state = Resumable("", {}, {}, {})
    for _ in epochs("test", 2, state, None, lambda *said: heard.append(said)):
        for batch in state.steps("abcd", 4):
            now += {"a": 0.5, "b": 2.0, "c": 0.1, "d": 9.0}[batch] if not state.history else 0.1
        state.history.append({"loss": 1.0})
    assert heard == [("test", 0.5, 2, {}), ("test", 1, 2, {"loss": 1.0}), ("test", 2, 2, {"loss": 1.0})]


@pytest.mark.parametrize("kind", ["adam", "sgd"])
@pytest.mark.parametrize("stop_at", [2, 3, 5])
def test_an_interrupted_run_ends_as_one_that_was_not(tmp_path, kind, stop_at):
    path = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        Run(kind).run(5, path, stop_at=stop_at)
    resumed = Run(kind, seed=9).run(5, path)
    assert resumed.done == [stop_at - 1, *range(stop_at, 6)]
    assert same(resumed, Run(kind).run(5))


def test_a_checkpoint_is_removed_at_the_end(tmp_path):
    Run().run(2, tmp_path / "checkpoint")
    assert list(tmp_path.iterdir()) == []


def test_a_checkpoint_is_written_no_more_often_than_every_s(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        Run().run(5, tmp_path / "checkpoint", stop_at=4, every_s=3600)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_without_a_checkpoint(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Run().run(2)
    assert list(tmp_path.iterdir()) == []


def test_what_is_kept_comes_back_to_where_it_is(tmp_path):
    value = torch.arange(3.0)
    Resumable("", {}, {}, {}, kept={"here": value, "elsewhere": value, "new": value}).save(tmp_path / "checkpoint")
    resumed = Resumable("", {}, {}, {}, kept={"here": torch.zeros(3), "elsewhere": torch.zeros(3, device="meta")})
    assert resumed.restore(tmp_path / "checkpoint")
    devices = {name: tensor.device.type for name, tensor in resumed.kept.items()}
    assert devices == {"here": "cpu", "elsewhere": "meta", "new": "cpu"}
    assert torch.equal(resumed.kept["here"], value)


def spoiled(path, how):
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-4])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()


@pytest.mark.parametrize("how", ["truncated", "empty", "missing"])
def test_an_unreadable_checkpoint_starts_anew(tmp_path, how):
    path = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        Run().run(3, path, stop_at=3)
    spoiled(path, how)
    assert same(Run().run(3, path), Run().run(3))


def test_the_checkpoint_of_another_run_is_not_taken_up(tmp_path):
    path = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        Run(identity="theirs").run(3, path, stop_at=3)
    mine = Run()
    assert not mine.state.restore(path)
    assert same(mine, Run())


def test_an_epoch_that_notes_no_figures_is_an_error():
    run = Run()
    loop = epochs("test", 2, run.state, None)
    next(loop)
    with pytest.raises(RuntimeError, match="expected epoch 0 to append its figures once, got 0 in all"):
        next(loop)


@pytest.mark.parametrize(("total", "expected"), [(0, []), (20, [10, 10]), (23, [10, 10, 3])])
def test_steps_come_in_ranges_each_of_which_is_an_epoch(total, expected):
    run, told = Run(), []
    ranges = []
    for steps in step_ranges("test", total, run.state, None, lambda *about: told.append(about[:3]), size=10):
        ranges.append(list(steps))
        run.state.history.append({"loss": 0.0})
    assert [len(steps) for steps in ranges] == expected
    assert [step for steps in ranges for step in steps] == list(range(total))
    assert told == [("test", index + 1, len(expected)) for index in range(len(expected))]
