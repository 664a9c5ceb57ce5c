"""splitleak in memory: capture, attack, score and defend, of any module or function."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import splitleak
from splitleak.attacker.base import Run
from splitleak.attacker.diffusion import DiffusionConfig, train_diffusion
from splitleak.datasets.plain import unlabelled


@pytest.fixture(scope="module")
def pictures():
    """Smooth pictures, 80 public and 8 victims."""
    draw = torch.Generator().manual_seed(0)
    small = torch.rand(88, 3, 3, 4, generator=draw)
    large = nn.functional.interpolate(small, (12, 16), mode="bilinear").clamp(0, 1)
    return large[:80], large[80:]


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU())


@pytest.mark.slow
def test_a_module_is_attacked_and_scored_and_not_changed(pictures, encoder, capsys):
    public, victims = pictures
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    encoder.train()
    captured = splitleak.capture(encoder, victims)
    assert captured.shape == (8, 8, 6, 8)
    rebuilt = splitleak.attack(captured, public=public, query=encoder, epochs=30, channels=16, device="cpu")
    assert rebuilt.images.shape == victims.shape
    assert rebuilt.queries == 80 + 8  # it looks whether answers differ
    scores = splitleak.score(rebuilt, victims)
    mean_image = splitleak.score(public.mean(0).expand_as(victims), victims)
    assert scores["mse"].mean < mean_image["mse"].mean / 2
    assert len(scores["ssim"].values) == 8
    assert encoder.training
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    assert capsys.readouterr() == ("", "")


class InPlace(nn.Module):
    def forward(self, images):
        return images.sub_(0.5).mul_(0.25)[:, :, ::4, ::4]


@pytest.mark.parametrize(
    "encoder",
    [InPlace(), InPlace().forward, splitleak.defend(InPlace(), {"name": "gaussian-noise", "sigma": 0.0}, seed=0)],
)
def test_an_encoder_that_works_in_place_leaves_the_images_as_they_were(pictures, encoder):
    victims = pictures[1].clone()
    first = splitleak.capture(encoder, victims)
    assert torch.equal(victims, pictures[1])
    array = victims.numpy()
    assert torch.equal(splitleak.capture(encoder, array), first)
    assert torch.equal(torch.from_numpy(array), pictures[1])


def test_any_function_and_numpy_arrays_will_do(pictures):
    victims = pictures[1].numpy()

    def device(images):
        return images.numpy().mean((1,))  # (N, H, W): no channels at all

    captured = splitleak.capture(device, (255 * victims).round().astype(np.uint8))
    assert captured.shape == (8, 12, 16)
    assert splitleak.capture(lambda images: images.flatten(1)[:, :5], victims).shape == (8, 5)
    assert splitleak.score(victims, victims)["mse"].mean == 0


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda images: (images, images + 1), "got tuple of 2"),
        (lambda images: [images], "got list of 1"),
        (lambda images: {"features": images}, "got dict of 1"),
        (lambda images: None, "got NoneType"),
        (lambda images: np.array([None] * len(images)), "got an array of object"),
        (torch.fft.fft2, "expected real features, got torch.complex64"),
        (lambda images: np.fft.fft2(images.numpy()), "expected real features, got complex64"),
        (lambda images: images.mean((1, 2, 3)), r"expected features \(2, ...\), a row an image, got \(2,\)"),
        (nn.Conv2d(3, 4, 3).half(), r"its weights are torch.float16, and images float32: call .float\(\) on it"),
    ],
)
def test_what_is_not_one_tensor_of_numbers_is_refused(pictures, made, said):
    with pytest.raises(ValueError, match=said):
        splitleak.capture(made, pictures[1][:2])


def test_an_encoders_own_error_stays_what_it_is(pictures, encoder):
    with pytest.raises(RuntimeError, match="channels"):
        splitleak.capture(encoder, pictures[1][:, :2])


def test_no_images_at_once_and_no_draws_are_refused(pictures, encoder):
    with pytest.raises(ValueError, match="expected batches of at least 1 image, got 0"):
        splitleak.capture(encoder, pictures[1], batch_size=0)
    captured = splitleak.capture(encoder, pictures[1])
    with pytest.raises(ValueError, match="expected draws and averaging of at least 1, got 0 and 1"):
        splitleak.attack(captured, public=pictures[0], query=encoder, name="linear", draws=0)


def test_several_tensors_are_attacked_as_one_by_their_shapes(pictures, encoder):
    public, victims = pictures

    def both(images):
        features = splitleak.capture(encoder, images)
        return torch.cat([features.flatten(1), features.mean((2, 3))], 1)

    known = {"public": public, "query": both, "name": "linear", "device": "cpu"}
    packed, plain = (
        splitleak.score(splitleak.attack(splitleak.capture(both, victims), **known, parts=parts), victims)["mse"].mean
        for parts in ([[8, 6, 8], [8]], None)
    )
    assert packed < plain
    with pytest.raises(ValueError, match=r"expected features \(384,\), which pack"):
        splitleak.attack(splitleak.capture(both, victims), **known, parts=[(8, 6, 8)])


def test_a_white_box_needs_the_weights_and_a_black_box_the_query(pictures, encoder):
    public, victims = pictures
    captured = splitleak.capture(encoder, victims)
    with pytest.raises(PermissionError, match="'query'"):
        splitleak.attack(captured, public=public)
    with pytest.raises(PermissionError, match="'encoder'"):
        splitleak.attack(captured, public=public, query=encoder, name="maximum-likelihood")


@pytest.mark.slow
def test_the_weights_that_a_white_box_is_given_stay_as_they_are(pictures, encoder):
    encoder.train()
    captured = splitleak.capture(encoder, pictures[1][:1])
    splitleak.attack(
        captured, public=pictures[0], encoder=encoder, name="maximum-likelihood", iterations=1, device="cpu"
    )
    assert encoder.training
    assert all(weight.requires_grad and weight.grad is None for weight in encoder.parameters())


def test_a_prior_that_was_trained_before_is_searched(pictures, encoder, tmp_path):
    public, victims = pictures
    prior = train_diffusion(DiffusionConfig(width=4, iterations=1, batch_size=2), unlabelled(public), Run())
    prior.save(tmp_path / "prior")
    known = {"public": public, "encoder": encoder, "prior": tmp_path / "prior", "device": "cpu"}
    captured = splitleak.capture(encoder, victims)
    rebuilt = splitleak.attack(captured, **known, name="drag", start="noise", timesteps=2, guidance=[0.5])
    assert rebuilt.findings["prior"] == prior.digest
    with pytest.raises(ValueError, match="expected a prior with a generator"):
        splitleak.attack(captured, **known, name="glass")


def test_scores_that_victims_share_are_inverted_by_a_service_of_any_function(pictures, encoder):
    public, victims = pictures
    torch.manual_seed(0)
    service = nn.Sequential(encoder, nn.Flatten(), nn.Linear(384, 12), nn.Softmax(1))
    shared = splitleak.capture(service, victims)
    rebuilt = splitleak.attack(
        shared, public=public, query=service, name="prediction-inversion", epochs=2, max_queries=60, device="cpu"
    )
    assert (rebuilt.images.shape, rebuilt.queries) == (victims.shape, 60)
    assert rebuilt.findings["share"] == 12
    with pytest.raises(ValueError, match="expected finite scores of at least zero"):
        splitleak.attack(shared - 1, public=public, query=service, name="prediction-inversion")


def test_a_budget_of_queries_takes_as_many_images(pictures, encoder):
    public, victims = pictures
    captured = splitleak.capture(encoder, victims)
    rebuilt = splitleak.attack(captured, public=public, query=encoder, max_queries=20, epochs=1, device="cpu")
    assert rebuilt.queries == 20


def test_noise_is_drawn_anew_and_hides(pictures, encoder):
    _, victims = pictures
    noisy = splitleak.defend(encoder, {"name": "gaussian-noise", "sigma": 0.5}, seed=0)
    first, second = splitleak.capture(noisy, victims), splitleak.capture(noisy, victims)
    assert not torch.equal(first, second)
    assert 0.45 < float((first - splitleak.capture(encoder, victims)).std()) < 0.55
    again = splitleak.defend(encoder, {"name": "gaussian-noise", "sigma": 0.5}, seed=0)
    assert torch.equal(splitleak.capture(again, victims), first)


@pytest.mark.parametrize("defense", ["bottleneck", "cem", "patrol"])
def test_a_defense_that_is_trained_with_the_network_is_refused(encoder, defense):
    with pytest.raises(ValueError, match=f"got '{defense}'"):
        splitleak.defend(encoder, defense)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"captured": torch.zeros(2)}, r"captured, got finite \(2,\)"),
        ({"captured": torch.full((2, 3), torch.nan)}, "not all finite"),
        ({"public": torch.zeros(3, 8, 8)}, r"public, got \(3, 8, 8\)"),
        ({"public": torch.full((3, 3, 8, 8), 2.0)}, "got 2 to 2"),
        ({"name": "decoder2"}, "did you mean 'decoder'"),
        ({"epoch": 3}, "did you mean 'epochs'"),
        ({"query": None, "max_queries": 3}, "beside max_queries or draws, got none"),
        ({"query": splitleak.Query(torch.flatten), "draws": 3}, "draws, got a Query, which has its own"),
    ],
)
def test_what_does_not_fit_is_one_line(encoder, arguments, said):
    given = {"captured": torch.zeros(2, 8, 6, 8), "public": torch.zeros(4, 3, 12, 16), "query": encoder, **arguments}
    with pytest.raises(ValueError, match=said):
        splitleak.attack(given.pop("captured"), **given)


def test_labels_are_as_many_as_public_images(pictures, encoder):
    captured = splitleak.capture(encoder, pictures[1])
    with pytest.raises(ValueError, match=r"expected labels \(80,\), one a public image, got \(3,\)"):
        splitleak.attack(captured, public=pictures[0], query=encoder, labels=np.zeros(3), name="linear")


def test_images_of_another_shape_are_not_scored():
    with pytest.raises(ValueError, match=r"\(2, 3, 8, 8\), as the true ones, got \(2, 3, 8, 9\)"):
        splitleak.score(torch.zeros(2, 3, 8, 9), torch.zeros(2, 3, 8, 8))


def test_nothing_is_drawn_from_the_callers_stream(pictures, encoder):
    public, victims = pictures
    before = torch.random.get_rng_state()
    captured = splitleak.capture(splitleak.defend(encoder, "gaussian-noise"), victims)
    rebuilt = splitleak.attack(captured, public=public, query=encoder, name="linear", device="cpu")
    splitleak.score(rebuilt, victims)
    splitleak.linkage(encoder, public=public, victims=victims, crossings=1, views=2, matcher={"epochs": 1})
    splitleak.scan(encoder, public=public, victims=victims, latency=0)
    assert torch.equal(before, torch.random.get_rng_state())


def test_victims_that_the_attacker_owns_are_refused(pictures, encoder):
    """Retrieved by their features they had an SSIM of 1, and probes were asked about what they had learnt."""
    public, _ = pictures
    for measure in (splitleak.scan, splitleak.linkage):
        with pytest.raises(ValueError, match="expected public images that are not the victims', but 8 of them"):
            measure(encoder, public=public, victims=public[:8])


def test_every_cut_of_a_module_is_scanned(pictures, encoder):
    network = nn.Sequential(encoder, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).train()
    network[0][1].eval()
    document = splitleak.scan(network, public=pictures[0], victims=pictures[1], latency=0)
    assert network.training
    assert not network[0][1].training
    leaks = [row["ssim"] for row in document["rows"] if row["device_macs"] is not None]
    assert len(leaks) > 3
    assert leaks[0] > leaks[-1]


def test_every_name_is_there_and_importing_the_package_loads_nothing_large():
    assert {*splitleak.__all__} == {*splitleak._PLACES}
    assert all(getattr(splitleak, name) is not None for name in splitleak.__all__)
    assert {*splitleak.__all__} <= {*dir(splitleak)}
    with pytest.raises(AttributeError, match="'nothing'"):
        _ = splitleak.nothing
    large = "torch onnx onnxruntime grpc numpy pydantic typer"
    code = "import sys, time; start = time.process_time(); import splitleak; print(time.process_time() - start)\n"
    code += f"print([name for name in {large.split()} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    seconds, loaded = done.stdout.splitlines()
    assert loaded == "[]"
    assert float(seconds) < 0.3


def test_linkage_finds_pictures_again_and_reads_their_class_where_it_is_told():
    draw = torch.Generator().manual_seed(0)
    public, victims = torch.rand(40, 1, 8, 8, generator=draw), torch.rand(20, 1, 8, 8, generator=draw)
    quick = {"crossings": 1, "views": 2, "matcher": {"epochs": 1}}
    found = splitleak.linkage(torch.nn.Flatten(), public=public, victims=victims, **quick)
    assert (found["chance"], found["refound"]["plain"]["same"]["share"]) == (0.05, 1)
    assert (found["label"], found["verified"]) == (None, None)
    classes = [(images.mean((1, 2, 3)) > 0.5).long() for images in (public, victims)]
    told = {"public_labels": classes[0], "labels": classes[1]}
    assert (
        splitleak.linkage(torch.nn.Flatten(), public=public, victims=victims, **told, **quick)["label"]["right"] > 0.5
    )
    with pytest.raises(ValueError, match="expected labels of the victims and of the public images, or none"):
        splitleak.linkage(torch.nn.Flatten(), public=public, victims=victims, labels=classes[1])


@pytest.mark.slow
def test_a_function_is_scanned_as_a_module_is(pictures, encoder):
    network = nn.Sequential(encoder, nn.Flatten(), nn.LazyLinear(3))
    network(torch.zeros(1, *pictures[0].shape[1:]))
    settings = {"public": pictures[0], "victims": pictures[1], "latency": 0}
    plain = splitleak.scan(network, **settings)
    function = splitleak.scan(lambda images: network(images), **settings)
    for place in (1, -1):  # the exporters do not write the same operations in between
        assert function["rows"][place]["mse"] == pytest.approx(plain["rows"][place]["mse"], rel=1e-3)


@pytest.mark.parametrize("network", [None, 3, [1, 2]])
def test_what_is_no_network_is_refused_by_its_type(pictures, network):
    with pytest.raises(ValueError, match=f"expected a network.*got {type(network).__name__}"):
        splitleak.scan(network, public=pictures[0], victims=pictures[1])


@pytest.mark.slow
def test_a_function_of_a_network_in_training_mode_is_not_exported(pictures):
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 10 * 14, 3)).train()
    with pytest.raises(ValueError, match=r"hand over the network itself, in evaluation mode \(`.eval\(\)`\)"):
        splitleak.scan(lambda images: network(images), public=pictures[0], victims=pictures[1])


@pytest.mark.slow
def test_a_network_that_decides_by_values_is_not_scanned_as_another(pictures):
    def device(images):
        return images.flatten(1) * (1 if images.mean() > 0.4 else -1)

    with pytest.raises(ValueError, match="its graph answers otherwise than the network itself"):
        splitleak.scan(device, public=pictures[0], victims=pictures[1])


def test_a_function_that_is_not_of_torch_is_refused(pictures):
    with pytest.raises(ValueError, match="expected a network that torch can write as ONNX"):
        splitleak.scan(lambda images: np.asarray(images).tolist()[0], public=pictures[0], victims=pictures[1])
