import pytest
import torch
from torch import nn
from torch.nn import functional

from splitleak.measures.layer_fisher import classification_loss, inversion_loss, layer_fisher, squared_gradients
from splitleak.models.penultimate import penultimate
from splitleak.models.split import ModelConfig, build


@pytest.fixture
def regression():
    """Softmax regression of two inputs and four classes, its weights zero."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 4, bias=False)).eval()
    nn.init.zeros_(network[1].weight)
    return network


IMAGE = torch.tensor([1.0, 2.0]).view(1, 1, 1, 2)


def test_softmax_regression_computed_by_hand(regression):
    found = squared_gradients(regression, IMAGE, torch.tensor([0]), classification_loss)
    expected = torch.tensor([[0.5625, 2.25], [0.0625, 0.25], [0.0625, 0.25], [0.0625, 0.25]]).double()
    torch.testing.assert_close(found["1.weight"], expected)
    assert layer_fisher(regression, IMAGE, torch.tensor([0]), classification_loss) == {"1": pytest.approx(0.46875)}


def test_over_the_models_own_labels_it_is_the_true_fisher_information(regression):
    found = squared_gradients(regression, IMAGE.expand(4, 1, 1, 2), torch.arange(4), classification_loss)
    torch.testing.assert_close(found["1.weight"], torch.tensor([[0.1875, 0.75]] * 4).double())


def test_opposite_gradients_do_not_cancel(regression):
    two = regression[1].weight.new_zeros(2, 2)
    regression[1] = nn.Linear(2, 2, bias=False)
    regression[1].weight.data = two
    found = layer_fisher(regression, IMAGE.expand(2, 1, 1, 2), torch.tensor([0, 1]), classification_loss)
    assert found["1"] == pytest.approx((0.25 + 1) / 2)


@pytest.mark.parametrize("architecture", ["cnn", "resnet20", "conv3"])
@pytest.mark.parametrize("task", ["classification", "inversion"])
def test_it_is_the_mean_of_squares_taken_image_by_image(architecture, task):
    torch.manual_seed(0)
    network = build(ModelConfig(architecture=architecture, channels=1, size=16, classes=3, width=0.25)).eval()
    images, labels = torch.rand(5, 1, 16, 16), torch.tensor([0, 2, 1, 1, 0])
    centroids = torch.randn(3, penultimate(network, images)[0].shape[1])
    expected = {name: torch.zeros_like(weight) for name, weight in network.named_parameters()}
    for image, label in zip(images, labels, strict=True):
        features, logits = penultimate(network, image[None])
        distance = (features - centroids[label]).square().sum().sqrt()
        loss = functional.cross_entropy(logits, label[None]) if task == "classification" else distance
        gradients = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True)
        for (name, _), gradient in zip(network.named_parameters(), gradients, strict=True):
            expected[name] += 0 if gradient is None else gradient.square() / 5
    chosen = classification_loss if task == "classification" else inversion_loss(centroids)
    found = squared_gradients(network, images, labels, chosen, chunk=2)
    assert found.keys() == expected.keys()
    for name, squares in expected.items():
        torch.testing.assert_close(found[name], squares.double(), rtol=1e-3, atol=1e-7)
    layers = layer_fisher(network, images, labels, chosen)
    assert list(layers) == [name for name, each in network.named_modules() if [*each.parameters(recurse=False)]]
    last = [name for name, each in network.named_modules() if isinstance(each, nn.Linear)][-1]
    assert (layers[last] == 0) == (task == "inversion")


def test_an_image_at_the_centroid_has_zero_information():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.Linear(3, 2)).eval()
    image = torch.rand(1, 1, 2, 2)
    centroids = penultimate(network, image)[0].detach()
    found = layer_fisher(network, image, torch.tensor([0]), inversion_loss(centroids))
    assert found == {"1": 0, "2": 0}


class Noisy(nn.Module):
    def forward(self, images):
        return images + torch.empty_like(images).normal_()


def test_a_layer_that_draws_draws_for_each_image():
    network = nn.Sequential(nn.Flatten(), Noisy(), nn.Linear(2, 2)).eval()
    nn.init.zeros_(network[2].weight)
    nn.init.zeros_(network[2].bias)
    torch.manual_seed(0)
    many = IMAGE.expand(4000, 1, 1, 2)
    found = squared_gradients(network, many, torch.zeros(4000, dtype=torch.int64), classification_loss, chunk=500)
    expected = torch.tensor([2.0, 5.0]).double() / 4  # E[(x + n)^2] = x^2 + 1, times (1 - p)^2
    torch.testing.assert_close(found["2.weight"], expected.expand(2, 2), rtol=0.1, atol=0)


def test_a_network_that_mixes_its_samples_is_refused(regression):
    with pytest.raises(ValueError, match="got training mode"):
        layer_fisher(regression.train(), IMAGE, torch.tensor([0]), classification_loss)
    with pytest.raises(ValueError, match="got eval mode and 0 images"):
        layer_fisher(regression.eval(), IMAGE[:0], torch.tensor([0])[:0], classification_loss)
