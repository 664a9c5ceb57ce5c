"""The cloud's output policy: how predictions are altered before any client gets them."""

import hashlib
import secrets
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn

from splitleak.config import Config
from splitleak.measures.scores import check_scores, truncate
from splitleak.seeding import generator

Floats = NDArray[np.float32]


class PolicyConfig(Config):
    """The steps of a policy, in the order in which they are applied; each is off by default."""

    temperature: float = Field(default=1.0, gt=0, description="softmax(logits / temperature)")
    purifier: Path | None = Field(default=None, description="folder of a trained purifier of score vectors")
    sigma: float = Field(default=0.0, ge=0, description="standard deviation of Gaussian noise on each score")
    noise: Literal["fresh", "fixed"] = Field(
        default="fresh", description="fresh: drawn for each response; fixed: the same for the same input"
    )
    rounding: float = Field(default=0.0, ge=0, le=1, description="scores are rounded to multiples of this step; 0: off")
    top: int | None = Field(default=None, ge=1, description="how many of the highest scores are kept; 1: top-1")
    label_only: bool = Field(default=False, description="only the label: a one-hot vector")

    @model_validator(mode="after")
    def _of_effect(self) -> Self:
        if self.label_only and (self.top is not None or self.rounding):
            raise ValueError("expected label_only without top and rounding, which act on scores that it hides")
        if self.noise == "fixed" and not self.sigma:
            raise ValueError("expected a sigma above 0 of the noise that is to be fixed, got none")
        return self

    def announced(self) -> dict[str, Any]:
        """The active steps, as announced to clients; of a purifier only its presence."""
        on = {name: value for name, value in self.document().items() if value != type(self)().document()[name]}
        if self.purifier is not None:
            on["purifier"] = True
        if self.sigma:
            on["noise"] = self.noise
        return on


class Policy:
    r"""Logits ``(N, K)`` in, scores ``(N, K)`` in [0, 1] out, both float32.

    1. ``temperature``: softmax(logits / T). It keeps the order; log p changes by a factor only.
    2. ``purifier``: Yang et al., "Defending model inversion and membership inference attacks via prediction
       purification", arXiv:2005.03915, see `splitleak.defenses.predictions.purifier`.
    3. noise: p + sigma * N(0, 1) in each score, brought back onto the simplex: negative scores become zero, the row is
       divided by its sum, and a row without a positive score becomes uniform. Fresh noise can be averaged away by
       repeated queries. Fixed noise, derived from the input's bytes and a secret, cannot; but an input that differs in
       one bit has other noise.
    4. ``rounding``: round(p / r) * r, halves to the even multiple, at most 1. Rows need not sum to one any more, and
       may be all zero.
    5. ``top``: the m highest (see `truncate`), or ``label_only``: the one-hot vector of the first highest score.

    Args:
        config: The steps.
        classes: K.
        seed: Of the noise, for experiments; None: it and the secret of fixed noise come from the operating system.

    Raises:
        FileNotFoundError: There is no purifier at ``purifier``.
        ValueError: ``top`` is more than ``classes``, or the purifier is one for another number of classes.
    """

    def __init__(self, config: PolicyConfig, *, classes: int, seed: int | None = None) -> None:
        if config.top is not None and config.top > classes:
            raise ValueError(f"policy: expected top of at most the model's {classes} classes, got {config.top}")
        self.config = config
        self.classes = classes
        self._fresh = generator(seed, "policy")
        self._secret = secrets.randbits(63) if seed is None else seed
        self._purifier = None if config.purifier is None else _purifier(config.purifier, classes)

    @torch.inference_mode()
    def __call__(self, logits: Floats, inputs: Floats | None = None) -> Floats:
        """Applies the policy.

        Args:
            logits: ``(N, classes)``, finite.
            inputs: ``(N, ...)`` inputs of the model, from which fixed noise is derived; None: from the logits, whose
                last bits may depend on the batch in which an input was computed.

        Raises:
            ValueError: The logits are not ``(N, classes)``, or not finite.
        """
        if logits.ndim != 2 or logits.shape[1] != self.classes or not np.isfinite(logits).all():
            raise ValueError(f"policy: expected finite logits (N, {self.classes}), got {logits.shape}")
        scores = (torch.from_numpy(np.array(logits, np.float32)) / self.config.temperature).softmax(1)
        if self._purifier is not None:
            scores = self._purifier(scores).float()
        if self.config.sigma:
            scores = _on_simplex(scores + self.config.sigma * self._noise(logits if inputs is None else inputs))
        if self.config.rounding:
            scores = ((scores.double() / self.config.rounding).round() * self.config.rounding).clamp(max=1).float()
        if self.config.top is not None:
            scores = truncate(scores, self.config.top)
        if self.config.label_only:
            scores = nn.functional.one_hot(scores.argmax(1), self.classes).float()
        released: Floats = scores.numpy()
        return released

    def _noise(self, inputs: Floats) -> Tensor:
        if self.config.noise == "fresh":
            return torch.randn(len(inputs), self.classes, generator=self._fresh)
        rows = np.ascontiguousarray(inputs + np.float32(0))  # makes -0.0 and 0.0 the same bytes
        digests = [hashlib.sha256(row.tobytes()).hexdigest() for row in rows]
        drawn = [torch.randn(self.classes, generator=generator(self._secret, "policy", digest)) for digest in digests]
        return torch.stack(drawn)


def _on_simplex(scores: Tensor) -> Tensor:
    """Clips at zero and divides by the sum; a row without a positive score becomes uniform."""
    clipped = scores.clamp(min=0)
    total = clipped.sum(1, keepdim=True)
    return torch.where(total > 0, clipped / total.clamp(min=torch.finfo(total.dtype).tiny), 1 / scores.shape[1])


def _purifier(folder: Path, classes: int) -> nn.Module:
    from splitleak.defenses.predictions.purifier import load_purifier

    purifier: nn.Module = load_purifier(folder).eval()
    uniform = torch.full((1, classes), 1 / classes)
    try:
        with torch.inference_mode():
            purified = purifier(uniform)
        check_scores(purified)
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{folder}: expected a purifier for {classes} classes, but {error}") from None
    if purified.shape != uniform.shape:
        raise ValueError(f"{folder}: expected a purifier for {classes} classes, got {tuple(purified.shape)} out")
    return purifier
