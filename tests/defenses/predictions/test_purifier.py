import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from splitleak.defenses.predictions.purifier import (
    Purifier,
    PurifierConfig,
    load_purifier,
    save_purifier,
    train_purifier,
)

QUICK = PurifierConfig(epochs=25)


def vectors_of(classes=6, count=600, seed=0):
    """Confident score vectors, each class's own kind of sure: most of what they differ in is of no use to a client."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (count,), generator=draw)
    logits = 2 * torch.randn(count, classes, generator=draw)
    logits[torch.arange(count), labels] += 9
    return logits.softmax(1)


@pytest.fixture(scope="module")
def purifier():
    return train_purifier(vectors_of(), QUICK, seed=0)


@settings(max_examples=30)
@given(
    st.lists(
        st.lists(st.sampled_from([0.0, 1e-38, 1e-6, 0.1, 0.5, 1.0]), min_size=6, max_size=6), min_size=1, max_size=5
    )
)
def test_outputs_are_probabilities_for_any_scores(purifier, rows):
    purified = purifier(torch.tensor(rows))
    assert bool((purified.isfinite() & (purified >= 0)).all())
    torch.testing.assert_close(purified.sum(1), torch.ones(len(rows)))


def test_one_hot_and_flat_vectors_become_probabilities_with_finite_logs(purifier):
    scores = torch.cat([torch.eye(6), torch.full((1, 6), 1 / 6)])
    assert bool(purifier.log_scores(scores).isfinite().all())
    assert purifier(scores)[:6].argmax(1).tolist() == list(range(6)), "a sure label was changed"


def test_it_keeps_the_labels_of_vectors_it_has_not_seen(purifier):
    scores = vectors_of(seed=1)
    assert (purifier(scores).argmax(1) == scores.argmax(1)).float().mean() > 0.97


def test_a_vector_is_purified_alike_alone_and_in_a_batch(purifier):
    scores = vectors_of(count=5)
    alone = torch.cat([purifier(score[None]) for score in scores])
    torch.testing.assert_close(alone, purifier(scores))


@pytest.mark.parametrize(("label_weight", "sure"), [(0.0, False), (5.0, True)])
def test_the_label_weight_increases_confidence(label_weight, sure):
    flat = (vectors_of() + 0.2) / 2.2
    purified = train_purifier(flat, QUICK.model_copy(update={"label_weight": label_weight}), seed=0)(flat)
    assert (purified.amax(1).mean() > flat.amax(1).mean() + 0.05) == sure


def telling_images(scores):
    """Images that the scores tell of: four stripes, as bright as the first four are sure (in logs)."""
    bright = ((scores[:, :4].log() + 12) / 12).clamp(0, 1)
    return bright[:, None, :, None].repeat_interleave(2, 2).expand(-1, 1, 8, 8).contiguous()


@pytest.mark.slow
def test_the_inner_inverter_increases_the_error_of_an_inverter():
    scores = vectors_of(count=300)
    images = telling_images(scores)

    def last_error(weight):
        heard = []
        config = PurifierConfig(epochs=15, inversion_weight=weight, inverter_width=0.05)
        train_purifier(scores, config, 0, images=images, report=lambda *said: heard.append(said[-1]))
        return heard[-1]["inversion_error"]

    assert last_error(30.0) > 1.1 * last_error(1e-4)


def test_the_inner_inverter_needs_an_image_for_each_vector():
    config = PurifierConfig(inversion_weight=1.0)
    with pytest.raises(ValueError, match="expected 600 images for inversion_weight, got 0"):
        train_purifier(vectors_of(), config, 0)
    with pytest.raises(ValueError, match="got 5"):
        train_purifier(vectors_of(), config, 0, images=torch.zeros(5, 1, 8, 8))


@pytest.mark.parametrize("game", [{}, {"inversion_weight": 1.0, "inverter_width": 0.05}])
def test_an_interrupted_training_ends_with_the_same_bits(tmp_path, killed, game):
    config, scores = PurifierConfig(epochs=3, **game), vectors_of(count=65)  # the last batch of 64 is a single vector
    images = telling_images(scores)

    def interrupt(what, done, total, figures):
        assert figures.keys() == {"distance", "label", *["inversion_error"] * bool(game)}
        killed(2)(what, done, total, figures)

    whole = train_purifier(scores, config, 0, images=images)
    with pytest.raises(KeyboardInterrupt):
        train_purifier(scores, config, 0, images=images, checkpoint=tmp_path / "c", report=interrupt)
    resumed = train_purifier(scores, config, 0, images=images, checkpoint=tmp_path / "c")
    assert all(torch.equal(value, resumed.state_dict()[key]) for key, value in whole.state_dict().items())


def test_a_saved_purifier_purifies_as_before_and_draws_nothing_at_random(purifier, tmp_path):
    save_purifier(tmp_path / "p", purifier, {"made": "here"})
    before = torch.random.get_rng_state()
    loaded = load_purifier(tmp_path / "p")
    assert torch.equal(before, torch.random.get_rng_state())
    scores = vectors_of(seed=1)
    assert torch.equal(loaded(scores), purifier(scores))
    assert loaded.config == purifier.config
    assert not loaded.training
    record = json.loads((tmp_path / "p" / "record.json").read_text())
    assert record == {"made": "here", "purifier": purifier.config.document()}


def test_a_folder_that_does_not_fit_together_is_refused(purifier, tmp_path):
    with pytest.raises(FileNotFoundError, match="splitleak purify"):
        load_purifier(tmp_path)
    save_purifier(tmp_path / "p", purifier, {})
    path = tmp_path / "p" / "purifier.json"
    saved = json.loads(path.read_text())
    path.write_text(json.dumps({**saved, "classes": 7}))
    with pytest.raises(ValueError, match="weights that fit"):
        load_purifier(tmp_path / "p")
    path.write_text(json.dumps({**saved, "classes": 2**63}))
    with pytest.raises(ValueError, match=r"purifier\.json: expected the sizes of a purifier"):
        load_purifier(tmp_path / "p")
    path.write_text(json.dumps({**saved, "extra": 1}))
    with pytest.raises(ValueError, match="extra"):
        load_purifier(tmp_path / "p")


def test_ten_classes_give_the_published_layers():
    shapes = [tuple(value.shape) for key, value in Purifier(10, PurifierConfig()).state_dict().items() if "t" in key]
    linear = [shape for shape in shapes if len(shape) == 2]
    assert linear == [(7, 10), (4, 7), (7, 4), (10, 7)]


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (torch.zeros(2, 5), "6 classes, got 5"),
        (torch.tensor([[float("nan")] * 6]), "finite"),
        (torch.tensor([[-1.0] * 6]), "at least zero"),
    ],
)
def test_scores_of_other_classes_are_refused(purifier, scores, expected):
    with pytest.raises(ValueError, match=expected):
        purifier(scores)


def test_one_reference_vector_is_too_few():
    with pytest.raises(ValueError, match="at least two"):
        train_purifier(vectors_of(count=1), QUICK, 0)
