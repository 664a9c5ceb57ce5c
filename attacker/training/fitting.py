"""Training a network on the attacker's own pairs: the part that all attacks which learn the way back have in common."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Optimizer

from splitleak.attacker.base import Knowledge, Run
from splitleak.config import Config, digest
from splitleak.measures.ssim import ssim
from splitleak.seeding import generator
from splitleak.training.fit import Resumable, epochs

_PREDICT_BATCH = 256

Descend = Callable[[Tensor, Tensor, float], Tensor]
"""One step on features ``(B, *cut)`` and images ``(B, C, H, W)``, with the share of the training that is over in
[0, 1); gives the loss, detached."""


def gather(known: Knowledge, name: str) -> Tensor:
    """What the public images become on the wire ``(draws, M, *cut)``: as often as there are draws to be had.

    Raises:
        ValueError: The edge gives other features than those captured; ``name`` is the attack's.
    """
    assert known.public is not None
    assert known.query is not None
    features = torch.stack([known.query(known.public) for _ in range(known.query.draws)])
    expected = (len(known.public), *known.captured.shape[1:])
    if tuple(features.shape[1:]) != expected:
        got = tuple(features.shape[1:])
        raise ValueError(f"{name}: expected features {expected} for the public images, got {got}")
    return features


def identity(config: Config, run: Run, features: Tensor, images: Tensor) -> str:
    """Whose checkpoint it is: that of one config and seed on these pairs."""
    return digest([config.document(), run.seed, float(features.double().sum()), float(images.sum())])


def fit(
    name: str,
    network: nn.Module,
    descend: Descend,
    features: Tensor,
    images: Tensor,
    state: Resumable,
    run: Run,
    *,
    total: int,
    batch_size: int,
    held_out: float,
) -> dict[str, object]:
    """Trains ``network`` for ``total`` epochs, leaves it with the weights of the best one, and gives its findings.

    Best is the least MSE on pairs held out of the training, a share ``held_out`` of all: no victim has a say. Features
    ``(draws, M, *cut)`` are taken a draw an epoch in turn, so that a network learns what noise may look like; the
    held-out ones are of the first draw. ``state`` must hold all that ``descend`` changes, and the ``order`` generator.

    Raises:
        ValueError: There are fewer than three public images; ``name`` is the attack's.
    """
    shuffled = torch.randperm(len(images), generator=generator(run.seed, name, "held-out"))
    out, used = shuffled.tensor_split([max(1, round(held_out * len(images)))])
    if len(used) < 2:
        raise ValueError(f"{name}: expected at least 3 public images, got {len(images)}")
    features, images = features.to(run.device), images.to(run.device)
    for epoch in epochs("attack", total, state, run.checkpoint, run.report):
        network.train()
        order = used[torch.randperm(len(used), generator=state.generators["order"])]
        batches = [batch for batch in order.split(batch_size) if len(batch) > 1]
        drawn, losses = features[epoch % len(features)], []
        for index, batch in enumerate(batches):
            losses.append(descend(drawn[batch], images[batch], (epoch + index / len(batches)) / total))
        error = float(functional.mse_loss(predict(network, features[0, out], run.device), images[out].cpu()))
        if all(error < past["held_out_mse"] for past in state.history):
            state.kept = {key: value.clone() for key, value in network.state_dict().items()}
        state.history.append({"loss": float(torch.stack(losses).mean()), "held_out_mse": error})
    network.load_state_dict(state.kept)
    errors = [figures["held_out_mse"] for figures in state.history]
    return {
        "history": state.history,
        "chosen_epoch": errors.index(min(errors)) + 1,
        "held_out_mse": min(errors),
        "mean_image_mse": float((images[out] - images[used].mean(0)).square().mean()),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
    }


def rebuilding_loss(rebuilt: Tensor, images: Tensor, ssim_weight: float) -> Tensor:
    """MSE of two batches ``(B, C, H, W)``, plus ``ssim_weight`` times 1 - SSIM."""
    error = functional.mse_loss(rebuilt, images)
    return error + ssim_weight * (1 - ssim(rebuilt, images).mean()) if ssim_weight else error


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Sets the learning rate of all that ``optimizer`` trains."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def cosine(progress: float) -> float:
    """What a learning rate is multiplied by after the share ``progress`` of a training: 1 falls to 0.01."""
    return 0.01 + 0.99 * 0.5 * (1 + torch.cos(torch.tensor(progress * torch.pi)).item())


def step(optimizer: Optimizer, loss: Tensor) -> Tensor:
    """One step of ``optimizer`` down ``loss``, which is given back detached."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return loss.detach()


@torch.no_grad()
def predict(network: nn.Module, features: Tensor, device: torch.device) -> Tensor:
    """The images ``(N, C, H, W)`` that ``network`` in eval mode makes of features ``(N, *cut)``, on the CPU."""
    network.eval()
    return torch.cat([network(batch.to(device)).float().cpu() for batch in features.split(_PREDICT_BATCH)])
