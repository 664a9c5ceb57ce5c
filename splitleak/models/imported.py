"""ONNX import of a third-party generator as differentiable torch operations."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from onnx import TensorProto
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from splitleak.artifacts import check_finite
from splitleak.errors import explained
from splitleak.graphs.module import GraphModule
from splitleak.graphs.reading import inputs_of, read_graph
from splitleak.models.generator import GeneratorConfig

_MOST_BYTES = 2**31  # of all that is computed from two latents
_MOST_NODES = 10_000
_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})


class ImportedGenerator(nn.Module):
    """Latents ``(N, latent)`` to images ``(N, C, size, size)``, by the graph of an ONNX file; no code of it is run.

    The graph has one input, the latents, and one output, images, for any number of latents; its weights are float32,
    whatever floats they are in the file, and frozen. ``config`` holds the shapes of latents and images; its width and
    kernel are unused. It has no ``blocks`` for attacks on intermediate features.
    """

    def __init__(self, path: Path, config: GeneratorConfig, *, signed: bool = False) -> None:
        """Reads an ONNX file.

        Args:
            path: The file.
            config: Shapes of the latents and images.
            signed: Its images are in [-1, 1], and are rescaled to [0, 1].

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is not an ONNX file, has an unsupported operation, weights that are not finite or not in
                its folder, or takes more than 2 GiB for two latents; one line that names the file.
        """
        super().__init__()
        self.config, self.signed = config, signed
        model = read_graph(path)
        with explained(path, "a generator of images"):
            given, names = inputs_of(model.graph), [tensor.name for tensor in model.graph.initializer]
            inputs, outputs, nodes = len(given), len(model.graph.output), len(model.graph.node)
            if (inputs, outputs) != (1, 1):
                raise ValueError(f"{path}: expected one input and one output, got {inputs} and {outputs}")
            if nodes > _MOST_NODES:
                raise ValueError(f"{path}: expected at most {_MOST_NODES} operations, got {nodes}")
            if len(set(names)) < len(names):
                raise ValueError(f"{path}: expected weights under names of their own, got one twice")
            if given[0].type.tensor_type.elem_type not in _FLOATS:
                raise ValueError(f"{path}: expected floats as input {given[0].name!r}, got something else")
            self.graph = GraphModule(model).float().requires_grad_(False).eval()
            check_finite(path, self.graph.state_dict())
            for count in (2, 3):
                if (shape := self._measured(count)) != (count, *config.image_shape):
                    asked = f"a generator of {count} images {config.image_shape}"
                    raise ValueError(f"{path}: expected {asked} of {count} latents, got {shape}")
            with torch.no_grad():
                self(torch.zeros(2, config.latent))

    def _measured(self, count: int) -> tuple[int, ...]:
        """The shape of the images of ``count`` latents, found without memory for what depends on them.

        Raises:
            ValueError: All that is computed takes too much memory, or the output is no tensor of floats.
        """
        state = {name: value.to("meta") for name, value in self.graph.state_dict().items()}
        with torch.no_grad(), _Measured():
            drawn = functional_call(self.graph, state, (torch.empty(count, self.config.latent, device="meta"),))
        if not drawn.is_floating_point():
            raise ValueError(f"its output is of {drawn.dtype}")
        return tuple(drawn.shape)

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        drawn: Tensor = self.graph(latents)
        return (drawn + 1) / 2 if self.signed else drawn


class _Measured(TorchDispatchMode):
    """Adds up the bytes of all that is computed, and ends it before they are too many."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._total = 0

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401  # of `TorchDispatchMode`
        result = func(*args, **(kwargs or {}))
        self._total += sum(each.numel() * each.element_size() for each in tree_leaves(result) if torch.is_tensor(each))
        if self._total > _MOST_BYTES:
            raise ValueError(f"what it computes takes {self._total:,} bytes, more than {_MOST_BYTES:,}")
        return result
