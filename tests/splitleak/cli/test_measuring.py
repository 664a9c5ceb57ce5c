import json


def test_cost_of_a_design_needs_no_training_and_shows_the_published_figures(call, tmp_path):
    (tmp_path / "small.toml").write_text(
        "[model]\narchitecture = 'cnn'\n[[defenses]]\nname = 'bottleneck'\nchannels = 4\n"
    )
    quick = ("--batch", "2", "--repeats", "1", "--set", "model.width=0.5")
    code, out, err = call("cost", "--config", tmp_path / "small.toml", *quick)
    assert code == 0, err
    assert "small; ms a batch of 2" in out
    assert "edge" in out
    assert "136.38" in out


def test_cost_of_an_artifact_is_that_of_its_design(train, call, tmp_path):
    train("--defense", "bottleneck", "--defense", "gaussian-noise")
    code, out, _ = call("cost", tmp_path / "toy", "--batch", "2", "--repeats", "1", "--json")
    assert code == 0
    found = json.loads(out)
    assert (found["name"], found["batch"], found["threads"]) == ("toy", 2, 1)
    assert found["counts"]["edge"]["macs"]["parameters"] > 0
    assert call("cost", tmp_path / "toy", "--defense", "bottleneck")[0] == 2
