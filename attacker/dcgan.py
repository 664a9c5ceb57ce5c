"""A generator of faces, or of anything, from elsewhere: the weights of a DCGAN as others publish them, as a prior."""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from splitleak.artifacts import check_finite, provenance, save_weights, write_json, written_folder
from splitleak.attacker.prior import FORMAT, PRIOR, Prior, PriorDocument
from splitleak.datasets.images import LUMA
from splitleak.errors import explained
from splitleak.graphs.user_module import export_module, read_state
from splitleak.models.generator import Generator, GeneratorConfig

_PACKAGE = "gan_face_generate"


def face_weights() -> Path:
    """The weights in the package gan-face-generate: a DCGAN of DigiFace-1M, whose faces are of nobody, at 64 pixels.

    None of the package's code is run.

    Raises:
        FileNotFoundError: It is not installed.
    """
    spec = find_spec(_PACKAGE)
    path = None if spec is None or spec.origin is None else Path(spec.origin).parent / "weights.tar"
    if path is None or not path.is_file():
        expected = "expected a file of weights, or gan-face-generate with its own (pip install 'splitleak[faces]')"
        raise FileNotFoundError(f"{expected}, got neither")
    return path


def import_dcgan(path: Path, size: int, channels: int, out: Path, *, force: bool = False) -> Prior:
    """Writes the generator of `read_dcgan` as a prior of square images, resampled where it draws others.

    A prior of the generator's own size and channels has ``generator.safetensors``, which attacks on intermediate
    features search too; any other has ``generator.onnx``, with antialiased bilinear resampling as its last layers. It
    has no critic, and no public image that is known.

    Args:
        path: The weights.
        size: Height and width of the images.
        channels: 1 or 3 of them.
        out: The prior's folder.
        force: Replace another prior there.

    Returns:
        The prior, as it is read of ``out``.

    Raises:
        FileExistsError: ``out`` is there, and no prior; or, without ``force``, another one.
        FileNotFoundError: There are no such weights.
        ValueError: They are no DCGAN's generator, or images cannot be of that size.
    """
    generator = read_dcgan(path)
    own = generator.config
    config = own.parse({**own.document(), "size": size, "channels": channels}, source="prior")
    about = {"dcgan": path.name, "drawn": list(own.image_shape), "provenance": provenance()}
    document = PriorDocument(format=FORMAT, generator=config, about=about)
    settings = {"about": {key: about[key] for key in ("dcgan", "drawn")}, "generator": config.document()}
    with written_folder(out, PRIOR, settings, force=force) as partial:
        write_json(partial / PRIOR.mark, document.document())
        if config == own:
            save_weights(partial / "generator.safetensors", generator.state_dict())
        else:
            drawn = export_module(_Resampled(generator, config), {"latents": (config.latent,)})
            (partial / "generator.onnx").write_bytes(drawn.SerializeToString())
    return Prior.load(out, torch.device("cpu"))


def read_dcgan(path: Path) -> Generator:
    """The generator of a DCGAN in the layout of PyTorch's tutorial, as one of ours that draws the same images.

    Radford et al., "Unsupervised representation learning with deep convolutional generative adversarial networks",
    ICLR 2016: transposed 4×4 convolutions, the first of a latent and each other a doubling, batch normalisation and
    ReLU between them, tanh last. Nothing but tensors is read of the file.

    Args:
        path: A state dict (safetensors, or of `torch.save`), or a checkpoint that holds one.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It holds no such generator, or weights that are not finite.
    """
    state = read_state(path)
    with explained(path, "a DCGAN's generator of grey or colour images"):
        return _generator(path, state).eval().requires_grad_(False)


def _generator(path: Path, state: Mapping[str, Any]) -> Generator:
    found = next(filter(_draws, (state, *state.values())), None)
    if found is None:
        raise ValueError("there are no weights of one")
    if not all(value.is_contiguous() for value in found.values()):  # which may claim more memory than the file has
        raise ValueError("its weights are views")
    kernels = [value for value in found.values() if value.ndim == 4]
    prefix = next(iter(found)).partition("0.")[0]
    layers = nn.Sequential(*_tutorial([(kernel.shape[0], kernel.shape[1]) for kernel in kernels]))
    layers.load_state_dict({name.removeprefix(prefix): value for name, value in found.items()})
    check_finite(path, layers.state_dict())
    (latent, _), (width, channels) = kernels[0].shape[:2], kernels[-1].shape[:2]
    generator = Generator(GeneratorConfig(channels=channels, size=4 << (len(kernels) - 1), latent=latent, width=width))
    generator.load_state_dict(dict(_converted(layers.state_dict(), len(kernels))))
    return generator


def _draws(part: object) -> bool:
    """Whether a state dict's last convolution gives grey or colour images."""
    kernels = [v for v in part.values() if torch.is_tensor(v) and v.ndim == 4] if isinstance(part, Mapping) else []
    return len(kernels) > 1 and kernels[-1].shape[1] in (1, 3)


def _tutorial(channels: list[tuple[int, int]]) -> Iterator[nn.Module]:
    """The tutorial's layers, from the numbers of channels into and out of each convolution."""
    for place, (before, after) in enumerate(channels):
        yield nn.ConvTranspose2d(before, after, 4, *((2, 1) if place else (1, 0)), bias=False)
        if place < len(channels) - 1:
            yield nn.BatchNorm2d(after)
            yield nn.ReLU()


def _converted(state: Mapping[str, Tensor], blocks: int) -> Iterator[tuple[str, Tensor]]:
    """The state of a `Generator` from that of the tutorial's layers.

    A convolution of a single place is a linear layer. Half of tanh and a half is the sigmoid of twice as much.
    """
    for place in range(blocks - 1):
        weight, each = state[f"{3 * place}.weight"], 1
        if place == 0:
            weight, each = weight.permute(1, 2, 3, 0).flatten(0, 2), weight.shape[2] * weight.shape[3]
        yield f"blocks.{place}.0.weight", weight
        norm = f"{3 * place + 1}."
        for name, value in ((name, value) for name, value in state.items() if name.startswith(norm)):
            spread = value.repeat_interleave(each) if value.ndim else value
            yield f"blocks.{place}.1.{name.removeprefix(norm)}", spread
    last = state[f"{3 * (blocks - 1)}.weight"]
    yield f"blocks.{blocks - 1}.0.weight", 2 * last
    yield f"blocks.{blocks - 1}.0.bias", torch.zeros(last.shape[1])


class _Resampled(nn.Module):
    """Images of a generator in another size and number of channels, by fixed matrices."""

    rows: Tensor  # (size, own size)
    mixed: Tensor  # (channels, own channels)

    def __init__(self, generator: Generator, config: GeneratorConfig) -> None:
        super().__init__()
        own = generator.config
        self.generator = generator
        identity = torch.eye(own.size)[None, None]
        shape = (config.size, own.size)
        rows = functional.interpolate(identity, shape, mode="bilinear", antialias=True)[0, 0]
        self.register_buffer("rows", rows)
        grey = torch.tensor([LUMA]) if own.channels == 3 else torch.ones(1, 1)
        mixed = torch.eye(own.channels) if config.channels == own.channels else grey.expand(config.channels, -1)
        self.register_buffer("mixed", mixed[:, :, None, None].contiguous())

    def forward(self, latents: Tensor) -> Tensor:
        images = functional.conv2d(self.generator(latents), self.mixed)
        return self.rows @ images @ self.rows.T
