import sys

import pytest
from typer.testing import CliRunner

from splitleak.cli import app
from splitleak.logs import progress
from splitleak.trackers import LOG_TO, TRACKERS, check_tracker, tracking


@pytest.fixture
def scalars():
    """``scalars(folder)``: the steps and values of each figure that TensorBoard has of a run."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def read(folder):
        events = accumulator.EventAccumulator(str(folder))
        events.Reload()
        return {
            name: [(event.step, round(event.value, 4)) for event in events.Scalars(name)]
            for name in events.Tags()["scalars"]
        }

    return read


def test_without_a_tracker_figures_go_nowhere(monkeypatch):
    monkeypatch.delenv(LOG_TO, raising=False)
    with tracking("run") as track:
        track("train", 1, 2, {"loss": 0.5})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_a_bar_shows_tensorboard_keeps(monkeypatch, tmp_path, scalars):
    monkeypatch.setenv(LOG_TO, f"tensorboard:{tmp_path}")
    with progress("bn") as report:
        report("train", 1, 2, {"loss": 0.5, "accuracy": 0.25})
        report("train", 2, 2, {"loss": 0.25, "accuracy": 0.5})
    assert scalars(tmp_path / "bn") == {
        "train/loss": [(1, 0.5), (2, 0.25)],
        "train/accuracy": [(1, 0.25), (2, 0.5)],
    }


def test_trainings_of_one_name_are_kept_apart(monkeypatch):
    """The members of an ensemble lay over each other, one value of each at every step."""
    kept = []

    class Kept:
        def __init__(self, place, label):
            self.log = lambda name, value, step: kept.append((name, step, value))
            self.close = lambda: None

    monkeypatch.setitem(TRACKERS, "kept", Kept)
    monkeypatch.setenv(LOG_TO, "kept:here")
    with progress("ensemble") as report:
        for member in (1, 2, 3):
            for epoch in (1, 2):
                report("attack", epoch - 0.5, 2, {})
                report("attack", epoch, 2, {"loss": member / epoch})
    names = ("attack/loss", "attack 2/loss", "attack 3/loss")
    assert kept == [(name, epoch, at / epoch) for at, name in enumerate(names, 1) for epoch in (1, 2)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_a_bar_shows_mlflow_keeps(monkeypatch, tmp_path):
    mlflow = pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path / 'log.db'}" if "sqlalchemy" in sys.modules else (tmp_path / "log").as_uri()
    monkeypatch.setenv(LOG_TO, f"mlflow:{uri}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    with progress("bn <b>") as report:
        report("train", 3, 4, {"loss %": 0.5})
    client = mlflow.MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("splitleak")
    [run] = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status, run.data.metrics) == ("bn _b_", "FINISHED", {"train/loss _": 0.5})
    [point] = client.get_metric_history(run.info.run_id, "train/loss _")
    assert point.step == 3


def test_a_tracker_that_fails_ends_no_training_and_is_told_of_once(monkeypatch, caplog):
    class Full:
        def __init__(self, place, label):
            pass

        def log(self, name, value, step):
            raise OSError("no space left")

        def close(self):
            raise OSError("no space left, still")

    monkeypatch.setitem(TRACKERS, "full", Full)
    monkeypatch.setenv(LOG_TO, "full:here")
    with tracking("run") as track:
        for step in range(3):
            track("train", step, 3, {"loss": 0.5})
    assert [record.getMessage() for record in caplog.records] == [
        "full:here: figures of run are not kept from here on: no space left"
    ]


def test_a_place_that_a_tracker_does_not_take_is_named(monkeypatch):
    def refusing(place, label):
        raise NotADirectoryError(place)

    monkeypatch.setitem(TRACKERS, "refusing", refusing)
    monkeypatch.setenv(LOG_TO, "refusing:there")
    with (
        pytest.raises(RuntimeError, match="expected a tracker that takes figures at refusing:there, but"),
        tracking("run"),
    ):
        pass


@pytest.mark.parametrize("to", ["tensorboard", "tensorboard:", ":x", "tensorbord:x"])
def test_what_names_no_tracker_is_refused_before_anything_runs(to):
    with pytest.raises(ValueError, match="expected a"):
        check_tracker(to)
    result = CliRunner().invoke(app, ["--log-to", to, "list", "codecs"])
    assert isinstance(result.exception, ValueError)


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setenv(LOG_TO, "mlflow:x")
    with pytest.raises(RuntimeError, match=r"pip install 'splitleak\[mlflow\]'"), tracking("run"):
        pass
