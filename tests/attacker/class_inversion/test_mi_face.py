"""MI-Face on models small enough that what it must find is known."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from splitleak.attacker.base import Run
from splitleak.attacker.class_inversion.base import ClassKnowledge
from splitleak.attacker.class_inversion.mi_face import MIFace, MIFaceConfig

SHAPE = (1, 16, 16)
PUBLISHED = MIFace.paper_config()


class Watched(nn.Module):
    """A model that remembers what it was asked and what it answered."""

    def __init__(self, model):
        super().__init__()
        self.model, self.seen = model, []

    def __deepcopy__(self, memo):
        return self

    def forward(self, images):
        logits = self.model(images)
        self.seen.append((images.detach().clone(), logits.detach().double().softmax(1)))
        return logits


@pytest.fixture(scope="module")
def faces():
    """Twelve people whose pictures differ by a little noise: means ``(12, 1, 16, 16)``, images and labels."""
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(12, 1, 4, 4, generator=draw)
    means = functional.interpolate(coarse, SHAPE[1:], mode="bicubic").clamp(0, 1)
    labels = torch.arange(12).repeat_interleave(8)
    images = (means[labels] + 0.05 * torch.randn(96, *SHAPE, generator=draw)).clamp(0, 1)
    return means, images, labels


@pytest.fixture(scope="module")
def regression(faces):
    """A softmax regression that knows them all."""
    _, images, labels = faces
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 12))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    assert (model(images).argmax(1) == labels).all()
    return model


def attacked(model, config, **known):
    attack = MIFace(config)
    return attack, attack(ClassKnowledge(SHAPE, model=model, **known))[:, 0]


def standardised(images):
    flat = images.flatten(1)
    return (flat - flat.mean(1, keepdim=True)) / flat.std(1, keepdim=True)


class Wavy(nn.Module):
    """No step is safe here: costs fall and rise again."""

    def forward(self, logits):
        return 3 * logits.sin()


@pytest.mark.parametrize("wavy", [False, True])
@pytest.mark.parametrize("optimizer", ["gradient-descent", "adam"])
@pytest.mark.parametrize("loss", ["probability", "cross-entropy"])
def test_the_answer_is_the_image_of_the_lowest_cost_seen(regression, loss, optimizer, wavy):
    model = nn.Sequential(regression, Wavy()) if wavy else regression
    watched = Watched(model)
    rate = {"adam": 0.05, "gradient-descent": 3.0}[optimizer]
    config = MIFaceConfig(loss=loss, optimizer=optimizer, learning_rate=rate, steps=40)
    attack, rebuilt = attacked(watched, config)
    best, shown, rises = torch.full((12,), -1.0, dtype=torch.float64), torch.zeros(12, *SHAPE), 0
    for images, scores in watched.seen[2:]:  # the first ask how many classes there are, and whether gradients pass
        confidence = scores.diagonal()
        rises += int((confidence < best - 1e-4).sum())
        shown[confidence > best] = images[confidence > best]
        best = best.maximum(confidence)
    assert len(watched.seen) == 43
    assert rises > 0 or not wavy
    assert torch.equal(rebuilt, shown)
    assert attack.findings["confidences"] == pytest.approx(best.tolist())


def test_it_is_fredriksons_descent_step_by_step(regression):
    config = MIFaceConfig(loss="probability", optimizer="gradient-descent", learning_rate=0.5, steps=7, patience=100)
    _, rebuilt = attacked(regression, config)
    weight, bias = regression[1].weight.detach().double(), regression[1].bias.detach().double()
    for label in range(12):
        image = torch.zeros(256, dtype=torch.float64)
        for _ in range(7):
            scores = (weight @ image + bias).softmax(0)
            slope = scores[label] * (weight[label] - scores @ weight)
            image = (image + 0.5 * slope).clamp(0, 1)
        assert torch.allclose(rebuilt[label].flatten().double(), image, atol=1e-5)


def test_a_softmax_regression_gives_away_every_face(faces, regression):
    means, _, _ = faces
    attack, rebuilt = attacked(regression, PUBLISHED.model_copy(update={"learning_rate": 1.0, "steps": 1000}))
    likeness = standardised(rebuilt) @ standardised(means).T
    assert (likeness.argmax(1) == torch.arange(12)).all()
    assert min(attack.findings["confidences"]) > 0.95


def test_each_class_stops_on_its_own_at_the_confidence_that_is_enough(regression):
    config = PUBLISHED.model_copy(update={"learning_rate": 1.0, "confidence": 0.9, "steps": 1000})
    attack, rebuilt = attacked(regression, config)
    steps = attack.findings["steps"]
    assert len(set(steps)) > 1
    assert max(steps) < 1000
    found = regression(rebuilt).softmax(1).diagonal()
    assert found.min() >= 0.9 - 1e-6
    for label in (steps.index(min(steps)), steps.index(max(steps))):
        alone = MIFace(config.model_copy(update={"steps": steps[label]}))(ClassKnowledge(SHAPE, model=regression))
        assert torch.allclose(alone[label, 0], rebuilt[label], atol=1e-6)


def test_a_class_without_a_slope_stops_when_patience_is_over():
    class Deaf(nn.Module):
        """It tells bright images apart, and has no slope at a black one."""

        def forward(self, images):
            return (images.flatten(1)[:, :3] - 0.5).relu()

    attack, rebuilt = attacked(Deaf(), MIFaceConfig(patience=10, steps=50))
    assert attack.findings["steps"] == [10, 10, 10]
    assert torch.equal(rebuilt, torch.zeros(3, *SHAPE))


class Sunk(nn.Module):
    """Class 0 starts so far below the others that its probability has no slope."""

    def forward(self, logits):
        return logits - 10 * functional.one_hot(torch.tensor(0), 12)


def test_cross_entropy_moves_where_the_probability_has_no_slope(regression):
    buried = nn.Sequential(regression, Sunk())
    published, _ = attacked(buried, PUBLISHED.model_copy(update={"steps": 300}))
    strong, _ = attacked(buried, MIFaceConfig(steps=300))
    assert published.findings["confidences"][0] < 1e-3
    assert strong.findings["confidences"][0] > 0.9


@pytest.mark.parametrize("config", [MIFaceConfig(steps=60), PUBLISHED.model_copy(update={"steps": 60})])
def test_an_interrupted_descent_goes_on_to_the_bit(regression, config, tmp_path, killed):
    whole, expected = attacked(regression, config)
    checkpoint = tmp_path / "checkpoint"
    with pytest.raises(KeyboardInterrupt):
        MIFace(config)(ClassKnowledge(SHAPE, model=regression), Run(report=killed(2), checkpoint=checkpoint))
    again, heard = MIFace(config), []
    found = again(
        ClassKnowledge(SHAPE, model=regression),
        Run(report=lambda what, done, total, figures: heard.append(done), checkpoint=checkpoint),
    )
    assert heard[0] == 1
    assert torch.equal(found[:, 0], expected)
    assert again.findings == whole.findings


def test_a_model_of_another_number_of_classes_is_refused(regression):
    with pytest.raises(ValueError, match="'mi-face': expected scores of 10 classes, got 12"):
        attacked(regression, MIFaceConfig(), classes=10)


def test_the_published_settings_are_fredriksons():
    assert (PUBLISHED.steps, PUBLISHED.patience, PUBLISHED.confidence, PUBLISHED.learning_rate) == (
        5000,
        100,
        0.99,
        0.1,
    )
    assert (PUBLISHED.loss, PUBLISHED.optimizer) == ("probability", "gradient-descent")


def test_the_model_it_is_given_is_left_as_it_was(regression):
    before = [parameter.requires_grad for parameter in regression.parameters()]
    attacked(regression, MIFaceConfig(steps=2))
    assert [parameter.requires_grad for parameter in regression.parameters()] == before
