"""Estimates of what a target leaks, without an attack: MSE under a Gaussian model, mutual and Fisher information."""

import math
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from splitleak.artifacts import provenance
from splitleak.config import Config
from splitleak.defenses.artifact import EdgeHalf, load_edge
from splitleak.eval.record.trained_on import trained_splits
from splitleak.logs import Report, reported, silent
from splitleak.measures.clusters import kmeans_per_class
from splitleak.measures.entropy import entropy_power, mixture_entropy, sampled_information
from splitleak.measures.fisher import effective_dimensions, fisher_information, fisher_spectrum, missing
from splitleak.seeding import generator

ASSUMPTIONS = (
    "the entropy of images is that of a Gaussian mixture, one covariance for all components; a Gaussian has the most "
    "entropy of its covariance, so an attack that knows more of images may fall far below the estimate",
    "from fewer images than an image has values, what they do not span counts as rounding: more of them raise the "
    "estimate",
    "no finer detail than 8 bits: the image's variance in any direction is at least that of rounding",
    "features are a mixture of Gaussians with diagonal covariances, clusters of k-means in each class",
    "mixtures are fitted to training images of the target, and victims are of their kind",
    "noise of any distribution counts as Gaussian of its variance; without noise the estimate is 0",
    "dropout is not counted, nor what rounds after noise",
    "an image crosses the wire once: an attacker who averages views has less noise than is counted here",
)
QUANTISATION_VARIANCE = 1 / (12 * 255**2)  # of rounding to one of 256 levels in [0, 1]
_BATCH = 256
_OF_JACOBIAN = ("fsinfo_nats_per_pixel", "effective_dimensions")


class LeakageConfig(Config):
    """Sample sizes and mixture components."""

    samples: int = Field(default=2000, ge=2, description="maximum training images that the mixtures are fitted to")
    n_images: int = Field(default=12, ge=1, description="training images at which the Jacobian is computed")
    clusters: int = Field(default=5, ge=1, description="mixture components per class, of features and of images")
    seed: int = 0


def measure(
    artifact: Path, images: Path, config: LeakageConfig, device: torch.device, report: Report = silent
) -> dict[str, Any]:
    r"""The leakage of a target's edge half; a JSON document.

    Args:
        artifact: Folder of the target.
        images: Folder of the splits that it was trained on.
        config: Sample sizes and mixture components.
        device: Where the encoder runs.
        report: Hears of progress.

    Returns:
        ``mse_gaussian_estimate``: estimate of the least expected MSE per pixel under a Gaussian model of images and
        features, the `entropy_power` of ``image_entropy_nats - information_nats`` (theorem 1 and equation S8 of Xia et
        al., CEM, CVPR 2025), 0 without noise; real attacks may fall below it. ``samples``: the images it is of.
        ``fsinfo_nats_per_pixel``: mean of `fisher_information` over ``n_images``, null without noise, as
        ``information_nats``. ``effective_dimensions``: mean of `effective_dimensions`. Both are null where pictures and
        features are too large for a Jacobian, which ``not_measured`` says. ``assumptions`` lists what the numbers
        assume.

    Raises:
        FileNotFoundError: There is no artifact, or no split.
        ValueError: The images are not those that the target was trained on.
    """
    splits = trained_splits(artifact, images)[1]
    half = load_edge(artifact / "edge", device, seed=config.seed)
    half.encoder.requires_grad_(False)
    indices = torch.randperm(len(splits.train), generator=generator(config.seed, "leakage", "sample"))[: config.samples]
    train = splits.train.select(indices)
    pixels = train.floats()
    noise = float(sum(defense.noise_variance for defense in half.stack))
    entropy = _image_entropy(pixels, train.labels, config)
    information = _information(half, pixels, train.labels, noise, config)
    dimensions = pixels[0].numel()
    variance = float(pixels.var(0, correction=0).mean())
    too_large = missing(math.prod(half.feature_shape), dimensions)
    at = pixels[:0] if too_large else pixels[: config.n_images].to(device)
    looked_at = reported(at, "Fisher information", config.n_images, report)
    spectra = [fisher_spectrum(partial(_clean, half), image) for image in looked_at]
    fisher = [fisher_information(s, dimensions, image_variance=variance, noise_variance=noise) for s in spectra]
    return {
        "target": half.name,
        "mse_gaussian_estimate": 0.0 if information is None else entropy_power(entropy - information, dimensions),
        "samples": len(train),
        "information_nats": information,
        "image_entropy_nats": entropy,
        "image_dimensions": dimensions,
        "feature_dimensions": math.prod(half.feature_shape),
        "noise_variance": noise,
        "fsinfo_nats_per_pixel": fmean(value for value in fisher if value is not None) if noise and fisher else None,
        "effective_dimensions": fmean(map(effective_dimensions, spectra)) if spectra else None,
        **({"not_measured": dict.fromkeys(_OF_JACOBIAN, too_large)} if too_large else {}),
        "assumptions": list(ASSUMPTIONS),
        "config": config.document(),
        "provenance": provenance(),
    }


def _clean(half: EdgeHalf, images: Tensor) -> Tensor:
    """Features that noise is added to, without dropout, images ``(N, C, H, W)`` to ``(N, *cut)``."""
    features: Tensor = half.encoder(images)
    for defense in half.stack:
        if defense.noise_variance:
            break  # of what is made of the noisy ones, nothing tells more than these
        features = features if defense.randomised else defense(features)
    return features


@torch.no_grad()
def _information(half: EdgeHalf, images: Tensor, labels: Tensor, noise: float, config: LeakageConfig) -> float | None:
    if noise == 0:
        return None
    features = torch.cat([_clean(half, batch.to(half.device)).flatten(1).cpu() for batch in images.split(_BATCH)])
    draw = generator(config.seed, "leakage", "features")
    return sampled_information(features, kmeans_per_class(features, labels, config.clusters, draw), noise)


def _image_entropy(images: Tensor, labels: Tensor, config: LeakageConfig) -> float:
    flat = images.flatten(1)
    assigned = kmeans_per_class(flat, labels, config.clusters, generator(config.seed, "leakage", "images"))
    return mixture_entropy(flat, assigned, smallest_variance=QUANTISATION_VARIANCE)
