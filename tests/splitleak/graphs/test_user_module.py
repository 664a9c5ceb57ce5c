"""A user's own torch network: found, loaded, exported, and cut at a submodule."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from splitleak.graphs.halves import check_halves, cloud_half, edge_half
from splitleak.graphs.network import Network
from splitleak.graphs.prepared import Preprocessing, prepare
from splitleak.graphs.user_module import cut_after, export_module, is_path, load_user_module
from tests.splitleak.graphs.test_network import Residual, network

CODE = """
import torch
from torch import nn

def made():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2))

ready = made()
number = 3

def exported():
    return torch.export.export(made().eval(), (torch.rand(1, 3, 4, 4),))

def compiled():
    return torch.compile(made())
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "their_code.py").write_text(CODE)
    monkeypatch.delitem(__import__("sys").modules, "their_code", raising=False)
    return tmp_path


def test_code_in_the_current_folder_is_found_and_called(here: Path) -> None:
    assert not load_user_module("their_code:made").training
    assert isinstance(load_user_module("their_code:ready"), nn.Sequential)


@pytest.mark.parametrize("name", ["exported", "compiled"])
def test_what_torch_exports_or_compiles_is_the_network_in_it(here: Path, name: str) -> None:
    module, inputs = load_user_module(f"their_code:{name}"), {"image": (3, 4, 4)}
    whole = Network(prepare(export_module(module, inputs), Preprocessing(), inputs, {}, None))
    assert [cut.after for cut in whole.cuts()] == ["Conv", "Flatten"]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("their_code", "module:callable"),
        ("no_such_code:made", "no_such_code"),
        ("their_code:mode", "mode"),
        ("their_code:number", "their_code:number"),
        ("their_code:nn.Flatten", None),
        ("os:getcwd", "torch network"),
    ],
)
def test_what_gives_no_network_is_named(here: Path, address: str, said: str | None) -> None:
    if said is None:
        assert isinstance(load_user_module(address), nn.Flatten)
        return
    with pytest.raises(ValueError, match=said):
        load_user_module(address)


@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_weights_are_read_without_running_code(here: Path, name: str) -> None:
    state = {
        key: torch.full_like(value, 0.5) for key, value in load_user_module("their_code:made").state_dict().items()
    }
    save_file(state, here / name) if name.endswith("safetensors") else torch.save(state, here / name)
    loaded = load_user_module("their_code:made", here / name)
    assert all(bool((value == 0.5).all()) for value in loaded.state_dict().values())


class Harm:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("harm"),))


def test_weights_that_hold_more_than_tensors_are_refused(here: Path) -> None:
    (here / "w.pt").write_bytes(pickle.dumps(Harm()))
    with pytest.raises(ValueError, match="a state dict of tensors alone"):
        load_user_module("their_code:made", here / "w.pt")
    assert not (here / "harm").exists()
    torch.save([torch.zeros(1)], here / "w.pt")
    with pytest.raises(ValueError, match="state dict, got list"):
        load_user_module("their_code:made", here / "w.pt")
    save_file({"other": torch.zeros(1)}, here / "w.safetensors")
    with pytest.raises(ValueError, match="weights of the network"):
        load_user_module("their_code:made", here / "w.safetensors")
    with pytest.raises(FileNotFoundError, match="expected weights at"):
        load_user_module("their_code:made", here / "none.pt")


@pytest.mark.parametrize("prefix", ["", "module."])
def test_weights_are_taken_from_the_checkpoint_of_a_training(here: Path, prefix: str) -> None:
    own = load_user_module("their_code:made").state_dict()
    state = {prefix + key: torch.full_like(value, 0.5) for key, value in own.items()}
    optimizer = {"state": {0: {"step": torch.zeros(1)}}, "param_groups": [{"lr": 0.1}]}
    checkpoint = {"epoch": 3, "state_dict": state, "optimizer": optimizer}
    for given in (state, checkpoint):
        torch.save(given, here / "w.pt")
        loaded = load_user_module("their_code:made", here / "w.pt")
        assert all(bool((value == 0.5).all()) for value in loaded.state_dict().values())
    for several, named in (({**checkpoint, "ema": state}, "state_dict, ema"), ({"epoch": 3}, "epoch")):
        torch.save(several, here / "w.pt")
        with pytest.raises(ValueError, match=f"a checkpoint that holds one, got one of {named}$"):
            load_user_module("their_code:made", here / "w.pt")


def test_a_submodule_is_cut_at_by_its_path() -> None:
    module = Residual().eval()
    inputs = {"image": (3, 8, 6)}
    whole = Network(prepare(export_module(module, inputs), Preprocessing(mean=(0.5,)), inputs, {}, None))
    cut = cut_after(whole, module, "stem", inputs)
    assert cut.after == "Conv"
    assert check_halves(whole, edge_half(whole, cut), cloud_half(whole, cut)) < 1e-5
    with pytest.raises(ValueError, match=r"'body', which gives \(4, 4, 3\)"):
        cut_after(whole, module, "body", inputs)
    with pytest.raises(ValueError, match="did you mean 'stem'"):
        cut_after(whole, module, "sten", inputs)


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 5)

    def forward(self, images: Tensor) -> Tensor:
        answer: Tensor = self.head(self.layer(self.layer(images).relu()).mean((2, 3)))
        return answer


def test_a_call_of_a_submodule_that_is_called_twice_is_cut_at_by_its_number() -> None:
    module, inputs = Twice().eval(), {"image": (3, 8, 6)}
    whole = network(module)
    first, second = (cut_after(whole, module, f"layer#{call}", inputs) for call in (1, 2))
    assert [cut.after for cut in (first, second)] == ["Conv", "Conv"]
    assert first.device_macs * 2 == second.device_macs
    with pytest.raises(ValueError, match="it is called 2 times, and layer#2 is the last"):
        cut_after(whole, module, "layer", inputs)
    for wrong in ("layer#3", "layer#0"):
        with pytest.raises(ValueError, match="expected a call of 'layer' from layer#1 to layer#2"):
            cut_after(whole, module, wrong, inputs)
    with pytest.raises(ValueError, match="did you mean 'layer'"):
        cut_after(whole, module, "layr#1", inputs)
    assert is_path(module, "layer#2")
    assert not is_path(module, "/layer/Conv_output_0")


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tower, self.head = nn.Conv2d(3, 2, 3), nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        towers = [self.tower(each) for each in (images, images.flip(3))]
        answer: Tensor = self.head(torch.cat([tower.mean((2, 3)) for tower in towers], 1))
        return answer


def test_without_a_number_the_outputs_of_all_calls_cross() -> None:
    module = Pair().eval()
    cut = cut_after(network(module), module, "tower", {"image": (3, 8, 6)}, tensors=2)
    assert cut.shapes == ((2, 6, 4), (2, 6, 4))


class Backbone(nn.Module):
    """What two layers give, by name, as torchvision's backbones of segmentation do."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        low = self.first(images)
        return {"low": low, "high": self.second(low)}


class Named(nn.Module):
    """Its second answer is the one that is meant; its layers have two paths each."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 2, 3), nn.Conv2d(2, 4, 3)
        self.backbone, self.head = Backbone(self.first, self.second), nn.Linear(6, 5)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        made = self.backbone(images)
        means = torch.cat([each.mean((2, 3)) for each in made.values()], 1)
        return {"aux": means, "out": self.head(means)}


def test_several_outputs_are_called_by_their_keys_and_a_layer_may_give_several_by_name() -> None:
    module, inputs = Named().eval(), {"image": (3, 8, 6)}
    model = export_module(module, inputs)
    assert [each.name for each in model.graph.output] == ["output.aux", "output.out"]
    whole = Network(prepare(model, Preprocessing(), inputs, {}, "output.out"))
    assert whole.outputs == 5
    assert cut_after(whole, module, "backbone", inputs, tensors=2).shapes == ((2, 6, 4), (4, 4, 2))


def test_a_layer_is_found_by_each_of_its_paths() -> None:
    module, inputs = Named().eval(), {"image": (3, 8, 6)}
    whole = Network(prepare(export_module(module, inputs), Preprocessing(), inputs, {}, "output.out"))
    assert is_path(module, "backbone.first")
    assert [cut_after(whole, module, path, inputs).after for path in ("first", "backbone.first")] == ["Conv"] * 2


def test_what_a_later_layer_changes_in_place_is_cut_before_it() -> None:
    inputs = {"image": (3, 8, 6)}
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(96, 2))
    assert cut_after(network(module), module, "0", inputs).after == "Conv"
    assert cut_after(network(module), module, "1", inputs).after == "Relu"


class ScaledInPlace(nn.Sequential):
    def forward(self, images: Tensor) -> Tensor:
        answer: Tensor = super().forward(images.sub_(0.5).mul_(0.25))
        return answer


def test_a_network_that_scales_its_images_in_place_is_exported_and_cut_as_another() -> None:
    torch.manual_seed(0)
    inputs, pictures = {"image": (3, 8, 6)}, torch.rand(4, 3, 8, 6)
    module, given = ScaledInPlace(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(96, 2)).eval(), pictures.clone()
    export_module(module, inputs, pictures=given)
    assert torch.equal(given, pictures)
    assert cut_after(network(module), module, "0", inputs).after == "Conv"


class Reshaped(nn.Sequential):
    def forward(self, images: Tensor) -> Tensor:
        made: Tensor = super().forward(images)
        return made.reshape(1, -1)


def test_a_network_of_one_image_at_a_time_is_cut_at_a_submodule() -> None:
    module = Reshaped(nn.Conv2d(3, 4, 3), nn.ReLU())
    found = network(module)
    assert not found.batched
    assert cut_after(found, module, "0", {"image": (3, 8, 6)}).after == "Conv"


class Drawn(nn.Sequential):
    def forward(self, images: Tensor) -> Tensor:
        made: Tensor = super().forward(images)
        return made + torch.randn(images.shape[0], 2)


def test_a_network_that_draws_its_answer_is_refused() -> None:
    with pytest.raises(ValueError, match="the same answer twice"):
        network(Drawn(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()))


class Branch(nn.Module):
    """Dark images go another way."""

    def __init__(self) -> None:
        super().__init__()
        self.bright, self.dark = nn.Linear(12, 2), nn.Linear(12, 2)

    def forward(self, images: Tensor) -> Tensor:
        answer: Tensor = (self.bright if self.is_bright(images) else self.dark)(images.flatten(1))
        return answer

    def is_bright(self, images: Tensor) -> bool:
        return bool(images.mean() > 0.4)


class Rare(Branch):
    """So do images of one value."""

    def is_bright(self, images: Tensor) -> bool:
        return bool(images[0, 0, 0, 0] != 0.125)


class Rounds(nn.Module):
    """Steps between which a last digit decides, so that no two runtimes agree in all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8 * 36 * 36, 5)

    def forward(self, images: Tensor) -> Tensor:
        answer: Tensor = self.head((self.layer(images) * 200).round().flatten(1) / 200)
        return answer


class Scaled(nn.Module):
    """Reads a scale off the values, in Python."""

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) / images.max().item()


class Counts(nn.Flatten):
    calls = 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(images) * self.calls


@pytest.mark.slow
def test_a_network_that_decides_by_values_is_no_graph() -> None:
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=r"its graph answers otherwise than the network itself: Python code in it"):
        export_module(Branch().eval(), {"image": (3, 2, 2)})


@pytest.mark.slow
def test_what_a_network_does_to_the_callers_pictures_alone_is_seen_on_them() -> None:
    torch.manual_seed(0)
    module, inputs = Rare().eval(), {"image": (3, 2, 2)}
    export_module(module, inputs)
    with pytest.raises(ValueError, match="its graph answers otherwise"):
        export_module(module, inputs, pictures=torch.full((1, 3, 2, 2), 0.125))


@pytest.mark.slow
def test_a_scale_that_python_reads_is_computed_from_each_image(capfd: pytest.CaptureFixture[str]) -> None:
    found = network(Scaled(), (3, 2, 2))
    images = 0.1 * torch.rand(4, 3, 2, 2)
    (made,) = found.forward(images[:1].numpy(), ["logits"])
    torch.testing.assert_close(torch.from_numpy(made["logits"]), Scaled()(images[:1]))
    assert capfd.readouterr() == ("", "")


@pytest.mark.slow
def test_an_exporter_that_gives_up_prints_no_graph_where_results_are_read(capfd: pytest.CaptureFixture[str]) -> None:
    module = nn.Sequential(spectral_norm(nn.Conv2d(3, 4, 3)), nn.Flatten(), nn.Linear(16, 2)).eval()
    assert network(module, (3, 4, 4)).macs == 4 * 4 * 27 + 2 * 16
    assert capfd.readouterr() == ("", "")


def test_rounding_in_a_network_is_no_branch() -> None:
    torch.manual_seed(0)
    assert network(Rounds(), (3, 38, 38)).outputs == 5


def test_a_network_that_counts_its_calls_is_refused() -> None:
    with pytest.raises(ValueError, match="the same answer twice, got one that draws at random or keeps a state"):
        export_module(Counts(), {"image": (3, 2, 2)})


def test_weights_in_half_precision_are_to_be_made_floats() -> None:
    with pytest.raises(ValueError, match=r"its weights are torch.float16.*call \.float\(\) on it"):
        export_module(nn.Sequential(nn.Conv2d(3, 4, 1)).half(), {"image": (3, 2, 2)})


class OneAtATime(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.reshape(1, 3, 4).relu().sum(2)


@pytest.mark.slow
def test_a_network_written_for_one_image_is_exported_for_one() -> None:
    assert not network(OneAtATime(), (3, 2, 2)).batched


class Untold(nn.Module):
    def forward(self, images: Tensor) -> list[str]:
        return ["no tensor"]


@pytest.mark.slow
def test_what_no_exporter_writes_is_one_line() -> None:
    with pytest.raises(ValueError, match="torch can write as ONNX") as caught:
        export_module(Untold(), {"image": (3, 2, 2)})
    assert "\n" not in str(caught.value)
