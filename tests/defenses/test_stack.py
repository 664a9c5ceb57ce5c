import pytest
import torch

from splitleak.config import Config
from splitleak.defenses.base import Defense, EpochEnd, Step, TrainingStart
from splitleak.defenses.stack import DefenseConfig, Stack
from splitleak.defenses.training import assemble, train

STEP = Step(*[torch.empty(0)] * 5, epoch=0, learning_rate=0.1)


class Affine(Defense):
    """Multiplies and adds, penalises by a number, and counts epochs."""

    name = "affine"
    config_type = Config

    def __init__(self, factor=1.0, offset=0.0, cost=None):
        super().__init__(Config())
        self.factor, self.offset, self.cost, self.ended = factor, offset, cost, []

    def forward(self, features):
        return self.factor * features + self.offset

    def penalty(self, step):
        return None if self.cost is None else torch.tensor(self.cost)

    def on_epoch(self, end):
        self.ended.append(end.epoch)


def configs(*documents):
    return [DefenseConfig.model_validate(document) for document in documents]


def test_defenses_act_in_their_order():
    add, double = Affine(offset=1), Affine(factor=2)
    assert float(Stack([add, double])(torch.tensor(3.0))) == 8
    assert float(Stack([double, add])(torch.tensor(3.0))) == 7


def test_an_empty_stack_is_no_defense():
    features = torch.rand(3)
    assert torch.equal(Stack([])(features), features)
    assert Stack([]).penalty(STEP) is None


def test_penalties_add_up_and_those_without_one_add_nothing():
    assert float(Stack([Affine(cost=1.5), Affine(), Affine(cost=2.0)]).penalty(STEP)) == 3.5
    assert Stack([Affine()]).penalty(STEP) is None


def test_every_defense_hears_of_the_end_of_an_epoch():
    stack = Stack([Affine(), Affine()])
    stack.on_epoch(EpochEnd(4, 5, lambda: (torch.empty(0), torch.empty(0))))
    assert [each.ended for each in stack] == [[4], [4]]


def test_every_defense_knows_the_variance_of_all_noise_on_the_wire():
    stack = Stack.build(
        configs(
            {"name": "gaussian-noise", "sigma": 0.1},
            {"name": "cem"},
            {"name": "laplace-noise", "scale": 0.2},
            {"name": "dropout"},
        )
    )
    assert [each.noise_variance_on_wire for each in stack] == pytest.approx([0.01 + 0.08] * 4)


def test_defenses_of_one_kind_draw_from_streams_of_their_own():
    stack = Stack.build(configs({"name": "gaussian-noise"}, {"name": "gaussian-noise"}))
    stack.seed(0, torch.device("cpu"))
    first, second = (each(torch.zeros(8)) for each in stack)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("acting", ["gaussian-noise", "quantisation", "permutation"])
def test_what_lengthens_the_encoder_does_not_come_after_what_acts_behind_it(small_target, small_splits, acting):
    """It would act on the bottleneck's output all the same, or, as a permutation, on other channels than it is for."""
    in_order = [{"name": "bottleneck", "channels": 17}, {"name": acting}]
    assemble(small_target(*reversed(in_order)), "builtin")  # as an artifact is loaded
    with pytest.raises(ValueError, match=f"bottleneck: expected before {acting}, which acts on .*, got it after that"):
        train(small_target(*reversed(in_order), epochs=1), small_splits, device=torch.device("cpu"))
    patrol = {"name": "patrol", "weight": 0, "exempt": 4}  # within the encoder, at any place
    for stack in (in_order, [{"name": acting}, patrol], [{"name": "dropout"}, {"name": acting}, {"name": "nopeek"}]):
        model, built = assemble(small_target(*stack), "builtin")
        built.begin(TrainingStart(model, "builtin", tuple("abcdefghij"), epochs=1))


@pytest.mark.parametrize(
    ("document", "unused"),
    [
        ({"name": "bottleneck", "stride": 2, "kernel": 5}, "kernel"),
        ({"name": "cem", "gamma": 0.1, "threshold": 1}, "gamma, threshold"),
        ({"name": "label-smoothing", "alpha": 0.1, "gradient_norm": 5}, "gradient_norm"),
        ({"name": "patrol", "measure": "mse", "ssim_threshold": 0.9, "exempt": 4}, "ssim_threshold"),
        (
            {"name": "patrol", "ratio": 0, "exempt": 4, "lipschitz_weight": 0, "lipschitz_noise": 1},
            "exempt, lipschitz_noise",
        ),
        ({"name": "ressfl", "measure": "mse", "ssim_threshold": 0.9}, "ssim_threshold"),
    ],
)
def test_a_setting_without_effect_is_refused_before_a_training(small_target, small_splits, document, unused):
    noise = {"name": "gaussian-noise"}
    assemble(small_target(document, noise), "builtin")  # as an artifact is loaded
    with pytest.raises(ValueError, match=f"{document['name']}: expected settings with an effect .*, got {unused}$"):
        train(small_target(document, noise, epochs=1), small_splits, device=torch.device("cpu"))
    given = {key: value for key, value in document.items() if key not in unused.split(", ")}
    assert DefenseConfig.model_validate(given).build().unused >= {*unused.split(", ")}


@pytest.mark.parametrize("drawing", ["gaussian-noise", "laplace-noise", "dropout"])
def test_what_draws_does_not_come_after_what_tells_the_cloud_how_to_read_the_rest(small_target, small_splits, drawing):
    """Dropout would garble the number of the session for the cloud, and for whoever undoes the permutation."""
    stack = [{"name": "permutation"}, {"name": "quantisation"}, {"name": drawing}]
    with pytest.raises(ValueError, match=f"{drawing}: expected before permutation, which tells .*, got it after that"):
        train(small_target(*stack, epochs=1), small_splits, device=torch.device("cpu"))


@pytest.mark.parametrize(
    "documents",
    [
        ({"name": "gaussian-noise", "sigma": 0.3}, {"name": "quantisation", "levels": 2}),
        ({"name": "dropout", "rate": 0.4}, {"name": "quantisation", "levels": 2}),
        ({"name": "gaussian-noise"}, {"name": "quantisation"}, {"name": "dropout"}),
    ],
)
def test_what_is_rounded_after_a_draw_is_expected_as_the_mean_of_what_is_sent(documents):
    """Rounded without the draw it would be one of the levels, which is not what an attacker sees on average."""
    stack, features = Stack.build(configs(*documents)), torch.linspace(0, 1, 4000).view(4, 1000).requires_grad_()
    stack.seed(0, torch.device("cpu"))
    before = [each.generator.get_state() for each in stack]
    expected = stack.expected(features)
    assert torch.equal(expected, stack.expected(features))
    assert all(torch.equal(each.generator.get_state(), state) for each, state in zip(stack, before, strict=True))
    (gradient,) = torch.autograd.grad(expected.sum(), features)
    assert bool((gradient > 0).any(1).all())
    with torch.no_grad():
        sent = torch.stack([stack(features) for _ in range(200)])
    # Neighbours are alike, so that few draws of each tell their mean.
    nearby = [means.unflatten(1, (-1, 50)).mean(2) for means in (expected.detach(), sent.mean(0))]
    assert float((nearby[0] - nearby[1]).abs().max()) < 0.08


def test_after_the_last_draw_what_is_expected_is_computed_and_not_drawn():
    stack = Stack.build(configs({"name": "quantisation", "levels": 3}, {"name": "gaussian-noise"}, {"name": "cem"}))
    features = torch.rand(4, 100)
    assert torch.equal(stack.expected(features), stack.defenses[0](features))


def test_the_edge_is_given_only_what_acts_on_the_wire():
    given = configs({"name": "bottleneck"}, {"name": "cem"}, {"name": "dropout"}, {"name": "gaussian-noise"})
    assert [each.name for each in Stack.build(given, on_wire_only=True)] == ["dropout", "gaussian-noise"]


def test_a_config_is_stored_with_every_default_spelled_out_and_reads_back():
    (config,) = configs({"name": "bottleneck", "channels": 4})
    spelled_out = {"channels": 4, "stride": 1, "kernel": 3, "sigmoid": True}
    assert config.document() == {"name": "bottleneck", "config": spelled_out}
    assert configs(config.document()) == [config]
    assert config.build().config.document() == spelled_out


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"name": "nopek"}, "expected a defense of bido, bottleneck, cem, .*, got 'nopek'"),
        ("cem", "expected a table with a defense's name, got 'cem'"),
        ({"sigma": 0.1}, "expected a defense of .*, got None"),
        ({"name": "gaussian-noise", "sigm": 0.1}, "defense 'gaussian-noise': .*sigm: Extra inputs .*got 0.1"),
        ({"name": "gaussian-noise", "sigma": -1}, "defense 'gaussian-noise': .*sigma: .*greater than .*got -1"),
        ({"name": "bottleneck", "stride": 3}, "defense 'bottleneck': .*stride: .*1, 2, 4 or 8, got 3"),
        ({"name": "cem", "config": {"mode": "best"}}, "defense 'cem': .*mode: .*'paper' or 'reference', got 'best'"),
    ],
)
def test_an_error_names_the_key_and_the_expected_value(document, message):
    with pytest.raises(ValueError, match=message):
        DefenseConfig.parse(document, source="stack")
