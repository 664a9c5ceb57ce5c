"""ONNX import of a third-party generator as differentiable torch operations."""

from pathlib import Path

import onnx
import torch
from google.protobuf.message import DecodeError
from torch import Tensor, nn

from splitleak.graphs.module import GraphModule
from splitleak.models.generator import GeneratorConfig


class ImportedGenerator(nn.Module):
    """Latents ``(N, latent)`` to images ``(N, C, size, size)``, by the graph of an ONNX file; no code of it is run.

    The graph has one input, the latents, and one output, images; its weights are frozen. ``config`` holds the shapes
    of latents and images; its width and kernel are unused. It has no ``blocks`` for attacks on intermediate features.
    """

    def __init__(self, path: Path, config: GeneratorConfig, *, signed: bool = False) -> None:
        """Reads an ONNX file.

        Args:
            path: The file.
            config: Shapes of the latents and images.
            signed: Its images are in [-1, 1], and are rescaled to [0, 1].

        Raises:
            ValueError: It is not an ONNX file, or has an unsupported operation; the message names it.
        """
        super().__init__()
        self.config, self.signed = config, signed
        try:
            model = onnx.load(path)
        except (DecodeError, ValueError, OSError) as error:
            raise ValueError(f"{path}: expected an ONNX file, but {error}") from None
        try:
            self.graph = GraphModule(model).requires_grad_(False).eval()
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        given = {tensor.name for tensor in model.graph.initializer}
        inputs = sum(each.name not in given for each in model.graph.input)
        if inputs != 1 or len(model.graph.output) != 1:
            raise ValueError(f"{path}: expected one input and one output, got {inputs} and {len(model.graph.output)}")
        with torch.no_grad():
            shape = tuple(self(torch.zeros(2, config.latent)).shape)
        if shape != (2, *config.image_shape):
            raise ValueError(f"{path}: expected a generator of images {config.image_shape}, got {shape[1:]}")

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        drawn: Tensor = self.graph(latents)
        return (drawn + 1) / 2 if self.signed else drawn
