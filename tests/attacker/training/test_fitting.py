import pytest
import torch
from torch import nn
from torch.nn import functional

from splitleak.attacker.base import Knowledge, Query, Run
from splitleak.attacker.training import fitting
from splitleak.attacker.training.fitting import FitConfig, crossed, fit, gather, predict, rebuilding_loss, set_apart


class Gain(nn.Module):
    """Images are the features times one number."""

    def __init__(self):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(0.0))

    def forward(self, features):
        return self.gain * features


def pairs(draws=1, count=20):
    images = torch.rand(count, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    noise = torch.arange(draws).view(draws, 1, 1, 1, 1)
    return images + noise, images


def fitted(descend, network, draws=1, total=3, **changes):
    features, images = pairs(draws, changes.pop("count", 20))
    end = {key: changes.pop(key) for key in ("average", "finish", "run") if key in changes}
    run = end.pop("run", Run())
    config = FitConfig(**{"epochs": total, "batch_size": 8, **changes})
    modules = {"network": network}
    return fit("toy", network, descend, features, images, config, run, modules=modules, optimizers={}, **end)


def test_each_epoch_sees_every_pair_that_is_not_held_out_once():
    seen = []

    def descend(batch, target, progress):
        seen.append((batch, target))
        return torch.tensor(0.0)

    fitted(descend, Gain(), total=2)
    assert [len(batch) for batch, _ in seen] == [8, 8, 2] * 2
    for at in (0, 3):
        epoch = torch.cat([target for _, target in seen[at : at + 3]])
        assert len(epoch.flatten(1).unique(dim=0)) == 18
    assert not torch.equal(seen[0][1], seen[3][1])


def test_the_draws_of_noise_take_turns_epoch_by_epoch():
    offsets = []

    def descend(batch, target, progress):
        offsets.append(int((batch - target).mean().round()))
        return torch.tensor(0.0)

    fitted(descend, Gain(), draws=3, total=5, batch_size=18)
    assert offsets == [0, 1, 2, 0, 1]


def test_the_best_epoch_on_the_held_out_pairs_is_kept_and_told():
    network, gains = Gain(), iter([0.2, 0.9, 0.5])

    def descend(batch, target, progress):
        network.gain.data.fill_(next(gains))
        return torch.tensor(1.0)

    findings = fitted(descend, network, batch_size=18)
    errors = [figures["held_out_mse"] for figures in findings["history"]]
    assert findings["chosen_epoch"] == 2
    assert findings["held_out_mse"] == errors[1] == min(errors)
    assert network.gain.item() == pytest.approx(0.9)
    assert findings["held_out_mse"] < findings["mean_image_mse"]


def test_the_finish_trains_on_all_pairs_and_its_last_weights_count():
    network, gains, seen = Gain(), iter([0.9, 0.5, 0.2, 0.3]), []

    def descend(batch, target, progress):
        seen.append((len(target), network.gain.item()))
        network.gain.data.fill_(next(gains))
        return torch.tensor(1.0)

    findings = fitted(descend, network, total=4, batch_size=20, finish=0.5)
    assert [count for count, _ in seen] == [18, 18, 20, 20]
    assert seen[2][1] == pytest.approx(0.9), "it goes on from the best epoch so far"
    assert network.gain.item() == pytest.approx(0.3)
    assert [sorted(figures) for figures in findings["history"]] == [["held_out_mse", "loss"]] * 2 + [["loss"]] * 2
    assert (findings["chosen_epoch"], findings["held_out_mse"]) == (1, findings["history"][0]["held_out_mse"])


def test_the_average_of_the_weights_is_judged_and_kept():
    network, gains = Gain(), iter([1.0, 0.0, 0.0])

    def descend(batch, target, progress):
        network.gain.data.fill_(next(gains))
        return torch.tensor(1.0)

    fitted(descend, network, batch_size=18, average=0.5)
    averages = [1.0, 1 - 9 / 11, (1 - 9 / 11) * 3 / 12]
    errors = [(1 - average) ** 2 for average in averages]
    assert network.gain.item() == pytest.approx(averages[errors.index(min(errors))])
    fitted(descend_to([1.0, 0.0, 0.0], network), network, batch_size=20, average=0.5, finish=0.67)
    assert network.gain.item() == pytest.approx(averages[2])


def descend_to(gains, network):
    given = iter(gains)

    def descend(batch, target, progress):
        network.gain.data.fill_(next(given))
        return torch.tensor(1.0)

    return descend


def test_averaged_and_finished_it_is_taken_up_again_where_it_was(tmp_path, killed):
    def trained(run):
        network = Gain()
        optimizer = torch.optim.Adam(network.parameters(), lr=0.1)

        def descend(batch, target, progress):
            loss = (network(batch) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss.detach()

        features, images = pairs()
        config = FitConfig(epochs=8, batch_size=8)
        given = {"modules": {"network": network}, "optimizers": {"adam": optimizer}, "average": 0.9, "finish": 0.5}
        findings = fit("toy", network, descend, features, images, config, run, **given)
        return network.gain.item(), findings

    whole = trained(Run())
    for epoch in (3, 4, 5, 7):
        checkpoint = tmp_path / str(epoch)
        with pytest.raises(KeyboardInterrupt):
            trained(Run(checkpoint=checkpoint, report=killed(epoch)))
        assert checkpoint.exists()
        assert trained(Run(checkpoint=checkpoint)) == whole


def test_the_share_of_the_training_that_is_over_rises_from_0_to_below_1():
    shares = []

    def descend(batch, target, progress):
        shares.append(progress)
        return torch.tensor(0.0)

    fitted(descend, Gain(), total=2)
    assert shares == pytest.approx([0, 1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6])


def test_too_few_pairs_are_refused_under_the_attacks_name():
    with pytest.raises(ValueError, match="toy: expected at least 3 public images, no two of them alike, got 2"):
        fitted(lambda *_: torch.tensor(0.0), Gain(), count=2)


def test_queries_are_made_as_often_as_there_are_draws():
    turns = iter(range(9))
    query = Query(lambda images: images + next(turns), draws=3)
    known = Knowledge(torch.zeros(1, 1, 4, 4), (1, 4, 4), public=torch.zeros(5, 1, 4, 4), query=query)
    features = gather(known, "toy")
    assert features.shape == (3, 5, 1, 4, 4)
    assert features[:, 0, 0, 0, 0].tolist() == [0, 1, 2]
    assert query.made == 15


@pytest.mark.parametrize(("most", "draws"), [(80, 3), (40, 2), (10, 1)])
def test_an_encoders_features_cross_as_often_as_asked_for_and_memory_affords(monkeypatch, most, draws):
    monkeypatch.setattr(fitting, "_MOST_FLOATS", most)
    known = Knowledge(torch.zeros(1, 4), (1, 2, 2), simulate=lambda features, draws, seed: torch.zeros(draws, 5, 4))
    assert crossed(torch.zeros(5, 4), known, 3, 0).shape == (draws, 5, 4)


@pytest.mark.parametrize("draws", [1, 3])
def test_features_too_many_for_memory_are_asked_for_in_parts_and_kept_in_half_precision(monkeypatch, draws):
    asked, turns = [], iter(range(999))
    images = torch.rand(50, 1, 4, 4)

    def send(given):
        asked.append(len(given))
        return given * 1e5 if next(turns) == 1 else given

    known = Knowledge(images[:1], (1, 4, 4), public=images, query=Query(send, draws=draws))
    monkeypatch.setattr(fitting, "_MOST_FLOATS", 50 * 16 * draws - 1)
    features = gather(known, "toy")
    assert (features.dtype, features.shape) == (torch.float16, (draws, 50, 1, 4, 4))
    assert known.query.made == 50 * draws
    assert max(asked) <= 50 * draws / 8
    assert features.isfinite().all()
    kept, sent = features[:, 2 * max(asked) :].float(), images[2 * max(asked) :].expand(draws, -1, -1, -1, -1)
    torch.testing.assert_close(kept, sent, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize(("scale", "offset"), [(1e-8, 0), (1e6, 0), (1, 1000)])
def test_features_that_half_precision_cannot_tell_apart_are_kept_in_single(scale, offset, monkeypatch):
    images = torch.rand(50, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    images[:, :, :, 0] = 0.3  # a border that is the same in all tells nothing in either
    known = Knowledge(images, (1, 4, 4), public=images, query=Query(lambda given: scale * given + offset))
    monkeypatch.setattr(fitting, "_MOST_FLOATS", 50 * 16 - 1)
    features = gather(known, "toy")
    assert torch.equal(features[0], scale * images + offset)


def test_a_border_that_is_the_same_in_all_pictures_needs_no_single_precision(monkeypatch):
    images = functional.pad(torch.rand(50, 1, 2, 2), (1, 1, 1, 1), value=0.3)
    known = Knowledge(images, (1, 4, 4), public=images, query=Query(lambda given: given))
    monkeypatch.setattr(fitting, "_MOST_FLOATS", 50 * 16 - 1)
    assert gather(known, "toy").dtype == torch.float16


def test_half_precision_features_train_and_predict_as_their_floats():
    features = torch.rand(2, 40, 1, 4, 4).half()
    given = []

    def descend(batch, target, progress):
        given.append(batch.dtype)
        return torch.tensor(0.0)

    network, config = Gain(), FitConfig(epochs=2)
    fit("toy", network, descend, features, features[0].float(), config, Run(), modules={"n": network}, optimizers={})
    assert set(given) == {torch.float32}
    assert predict(network, features[0], torch.device("cpu")).dtype == torch.float32


def test_a_prediction_is_made_in_eval_mode_without_gradient():
    network = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(1, 1, 1)).train()
    features = torch.rand(300, 1, 2, 2)
    first = predict(network, features, torch.device("cpu"))
    assert torch.equal(first, predict(network, features, torch.device("cpu")))
    assert not first.requires_grad
    assert len(first) == 300


def test_nothing_is_trained_on_whose_mirror_image_is_measured_on():
    features, images = pairs()
    both = [torch.cat([each, each.flip(-1)], -4) for each in (features, images)]
    seen = []

    def descend(batch, target, progress):
        seen.extend(image.numpy().tobytes() for image in target)
        return torch.tensor(0.0)

    config, network = FitConfig(epochs=1, held_out=0.25), Gain()
    fit("toy", network, descend, *both, config, Run(), modules={"network": network}, optimizers={})
    looks = {frozenset(each.numpy().tobytes() for each in (image, image.flip(2))) for image in images}
    trained, whole = [look for look in looks if look & set(seen)], [look for look in looks if look <= set(seen)]
    assert trained == whole
    assert 0 < len(looks) - len(trained) <= 10  # of forty pictures ten are held out, and their twins with them


def test_without_copies_the_first_of_an_order_are_set_apart_and_all_others_left():
    _, images = pairs()
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    apart, others = set_apart(images, order, 5)
    assert (apart.tolist(), others.tolist()) == (order[:5].tolist(), order[5:].tolist())
    _, others = set_apart(torch.cat([images, images[order[:2]]]), torch.cat([order, torch.tensor([20, 21])]), 5)
    assert others.tolist() == order[5:].tolist()


def test_pictures_smaller_than_the_window_of_ssim_are_rebuilt_by_their_mse_alone():
    for side, alone in ((8, True), (11, False)):
        made, truth = torch.zeros(2, 1, side, side), torch.full((2, 1, side, side), 0.5)
        assert (rebuilding_loss(made, truth, 0.02) == 0.25) == alone
