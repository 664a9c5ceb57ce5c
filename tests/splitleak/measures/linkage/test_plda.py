import pytest
import torch

from splitleak.measures.linkage.plda import Plda


def pairs(count, between, within, seed=0):
    """Features ``(count, d)`` of pictures, and of the same again, of such variances, each about a mean of its own."""
    draw = torch.Generator().manual_seed(seed)
    picture = torch.randn(count, len(between), generator=draw) * torch.tensor(between).sqrt()
    noise = torch.randn(2, count, len(within), generator=draw) * torch.tensor(within).sqrt()
    return picture + noise[0] + 3, picture + noise[1] - 2


def test_scores_are_the_likelihood_ratios_of_gaussians():
    """By the densities themselves: both features under one picture, and the second alone, which all of a row share."""
    between, within = (4.0, 1.0, 0.0), (1.0, 2.0, 3.0)
    plda = Plda.fit(*pairs(200_000, between, within))
    first, again = pairs(5, between, within, seed=1)
    expected = torch.zeros(5, 5)
    for row, probe in enumerate(again):
        for column, entry in enumerate(first):
            for own, other, x, y in zip(between, within, probe + 2, entry - 3, strict=True):
                total = own + other
                joint = torch.distributions.MultivariateNormal(
                    torch.zeros(2), torch.tensor([[total, own], [own, total]])
                )
                alone = torch.distributions.Normal(0.0, total**0.5)
                expected[row, column] += joint.log_prob(torch.stack([x, y])) - alone.log_prob(y)
    found = plda.scores(again, first)
    centred = [scores - scores.mean(1, keepdim=True) for scores in (found.float(), expected)]
    torch.testing.assert_close(*centred, atol=0.05, rtol=0.02)


@pytest.mark.parametrize(("count", "size"), [(60, 200), (600, 40)])
def test_a_channel_of_noise_hides_no_picture_however_loud_it_is(count, size):
    rest = (0.0,) * (size - 20)
    shares = []
    for loud in (1e-4, 1e8):
        between, within = (1.0,) * 20 + rest, (1e-2,) * 20 + (loud,) * len(rest)
        plda = Plda.fit(*pairs(count, between, within))
        first, again = pairs(100, between, within, seed=1)
        shares.append((plda.scores(again, first).argmax(1) == torch.arange(100)).float().mean())
    assert shares[0] == shares[1] == 1


def test_what_is_the_same_each_time_is_found_and_what_never_varies_tells_nothing():
    first = torch.cat([pairs(50, (1.0, 1.0), (0.0, 0.0))[0], torch.full((50, 1), 7.0)], 1)
    plda = Plda.fit(first, first)
    moved = first + torch.tensor([0, 0, 1e6])
    assert torch.equal(plda.scores(moved, first).argmax(1), torch.arange(50))


def test_pictures_that_are_noise_alone_have_equal_scores():
    first, again = pairs(2000, (0.0,) * 3, (1.0,) * 3)
    plda = Plda.fit(first, again)
    assert plda.scores(again, first).std() < 0.1  # little is made of what seems to be a picture's


def test_vectors_are_what_is_expected_of_the_picture():
    """The mean of a Gaussian given a noisy sight of it, in units of the noise's deviation."""
    between, within = (4.0, 1.0, 0.0), (1.0, 2.0, 3.0)
    plda = Plda.fit(*pairs(200_000, between, within))
    draw = torch.Generator().manual_seed(1)
    features = torch.randn(50, 3, generator=draw) * 3 + 0.5
    expected = (features - 0.5) * torch.tensor([4 / 5 / 1, 1 / 3 / 2**0.5, 0])
    torch.testing.assert_close(
        plda.vectors(features) @ plda.vectors(features).T, (expected @ expected.T).double(), atol=0.1, rtol=0.02
    )


@pytest.mark.parametrize(("first", "again"), [((1, 3), (1, 3)), ((4, 3), (3, 3)), ((4, 3), (4, 2))])
def test_other_than_pairs_are_refused(first, again):
    with pytest.raises(ValueError, match="expected features of at least two pictures, and of the same again"):
        Plda.fit(torch.zeros(first), torch.zeros(again))
