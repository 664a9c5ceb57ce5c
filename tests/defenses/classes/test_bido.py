import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from splitleak.defenses.base import TrainingStart
from splitleak.defenses.classes.bido import balanced_batches
from splitleak.defenses.stack import DefenseConfig, Stack
from splitleak.defenses.training import assemble, train, training_step
from splitleak.measures.dependence import coco, gaussian_kernel, hsic, label_kernel, normalised_hsic
from splitleak.models.split import SplitModel

CPU = torch.device("cpu")
IMAGES = torch.rand(12, 1, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(12) % 3


def stepped(small_target, *defenses):
    """A network and its stack after one training step, and that step's task loss and penalty."""
    model, stack = assemble(small_target(*defenses), "builtin")
    optimizer = torch.optim.SGD([*model.parameters(), *stack.task_parameters()], lr=0.01)
    task, penalty, _ = training_step(model, stack, optimizer, IMAGES, LABELS, epoch=0, rate=0.01)
    return model, stack, float(task), float(penalty)


@pytest.mark.parametrize(
    ("name", "measure"),
    [
        ("hsic", hsic),
        ("nhsic", normalised_hsic),
        ("coco", coco),
        ("coco-frobenius", lambda a, b: coco(a, b, "frobenius")),
    ],
)
@pytest.mark.parametrize(("lambda_x", "lambda_y"), [(0.3, 0.7), (0.3, 0), (0, 0.7)])
def test_the_penalty_is_that_of_the_outputs_of_its_layers(small_target, name, measure, lambda_x, lambda_y):
    document = {"name": "bido", "measure": name, "lambda_x": lambda_x, "lambda_y": lambda_y, "layers": [1, 3]}
    *_, penalty = stepped(small_target, document)
    model, _ = assemble(small_target(), "builtin")
    first = model.encoder[:2](IMAGES)
    outputs = first, model.head[0](model.encoder[2](first))
    x, y = gaussian_kernel(IMAGES), label_kernel(LABELS)
    hidden = [gaussian_kernel(output) for output in outputs]
    expected = sum(lambda_x * measure(x, each) - lambda_y * measure(each, y) for each in hidden)
    assert penalty == pytest.approx(float(expected.detach()), rel=1e-5)


def test_by_default_every_layer_that_shrinks_counts_and_without_weights_it_is_plain_training(small_target):
    *_, task, penalty = stepped(small_target, {"name": "bido"})
    *_, spelled_out = stepped(small_target, {"name": "bido", "layers": [1, 2, 3]})
    assert penalty == pytest.approx(spelled_out)
    model, _, plain, _ = stepped(small_target)
    weightless, _, again, nothing = stepped(small_target, {"name": "bido", "lambda_x": 0, "lambda_y": 0})
    assert (again, nothing) == (plain, 0)
    assert task == plain
    for key, value in model.state_dict().items():
        assert torch.equal(weightless.state_dict()[key], value)


def test_the_papers_hsic_has_no_effect_at_the_published_weights(small_target):
    *_, inert = stepped(small_target, {"name": "bido", "measure": "hsic", "lambda_x": 0.05, "lambda_y": 0.5})
    *_, felt = stepped(small_target, {"name": "bido", "measure": "nhsic", "lambda_x": 0.05, "lambda_y": 0.5})
    assert abs(inert) < 5e-3
    assert abs(felt) > 0.1


def test_forward_passes_of_other_defenses_are_not_taken_for_the_batch(small_target):
    patrol = {"name": "patrol", "weight": 0, "lipschitz_weight": 0.0, "ratio": 0, "blocks": 0, "channels": 4}
    *_, plain = stepped(small_target, patrol, {"name": "bido"})
    *_, both = stepped(small_target, {**patrol, "lipschitz_weight": 1e-30}, {"name": "bido"})
    assert both == pytest.approx(plain, rel=1e-9)


def test_a_finished_model_has_no_hooks(small_target, small_splits):
    target = train(small_target({"name": "bido"}, epochs=1), small_splits, device=CPU)
    assert not any(module._forward_hooks for module in target.model.modules())
    target.model.train()(IMAGES)
    (defense,) = target.stack
    assert defense._outputs == {}


@pytest.mark.slow
def test_training_raises_the_dependence_on_the_label_relative_to_the_image(small_target, small_splits):
    images, labels = small_splits.test.floats(), small_splits.test.labels
    shares = []
    for document in ({"name": "bido", "lambda_x": 0.0, "lambda_y": 0.0}, {"name": "bido", "lambda_x": 0.2}):
        model = train(small_target(document, epochs=4), small_splits, device=CPU).model
        with torch.no_grad():
            hidden = gaussian_kernel(model.head[0](model.encoder(images)))
        of_label = normalised_hsic(hidden, label_kernel(labels))
        shares.append(float(of_label / normalised_hsic(hidden, gaussian_kernel(images))))
    assert shares[1] > 1.1 * shares[0]


def test_a_layer_that_is_not_there_is_refused(small_target):
    with pytest.raises(ValueError, match="bido: expected layers of 1 to 3, got 4"):
        assemble(small_target({"name": "bido", "layers": [1, 4]}), "builtin")
    with pytest.raises(ValueError, match="measure: Input should be 'hsic', 'nhsic', 'coco' or 'coco-frobenius'"):
        DefenseConfig.parse({"name": "bido", "measure": "cka"}, source="stack")


def test_a_network_without_layers_to_regularise_is_not_trained_as_if_it_were_defended(small_target):
    features, classifier = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU()), nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
    model = SplitModel(features, classifier, (1, 16, 16))  # no positions, as in an imported network
    stack = Stack.build(small_target({"name": "bido"}).defenses)
    stack.prepare(model, 10)
    with pytest.raises(ValueError, match=r"bido: expected a network with positions that reduce .*, got one without"):
        stack.begin(TrainingStart(model, "mine", tuple("abcdefghij"), epochs=1))


@settings(max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=12),
    batch_size=st.integers(2, 40),
    images_per_class=st.integers(1, 8),
    seed=st.integers(0, 99),
)
def test_balanced_batches_have_equally_many_of_each_class(sizes, batch_size, images_per_class, seed):
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    draw = torch.Generator().manual_seed(seed)
    batches = balanced_batches(labels, batch_size, images_per_class, draw)
    assert len(batches) == math.ceil(len(labels) / batch_size)
    classes = max(1, min(len(sizes), batch_size // images_per_class))
    for batch in batches:
        _, counts = labels[batch].unique(return_counts=True)
        assert counts.tolist() == [batch_size // classes] * classes
        assert len(batch) <= batch_size


def test_an_epoch_of_balanced_batches_sees_every_image_about_once():
    labels = torch.arange(640) % 16
    draw = torch.Generator().manual_seed(0)
    seen = torch.bincount(torch.cat(balanced_batches(labels, 64, 4, draw)), minlength=640)
    assert seen.tolist() == [1] * 640
    assert not torch.equal(balanced_batches(labels, 64, 4, draw)[0], balanced_batches(labels, 64, 4, draw)[0])
