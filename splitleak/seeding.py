"""Seeding: randomness is passed as a ``torch.Generator``, derived from one seed and the names of its use."""

import contextlib
import hashlib
import secrets
from collections.abc import Iterator, Sequence

import torch


def derive_seed(seed: int, *names: object) -> int:
    """A 63-bit seed for one use, so that different uses of one ``seed`` have independent streams.

    >>> derive_seed(0, "noise") == derive_seed(0, "noise"), derive_seed(0, "noise") == derive_seed(0, "shuffle")
    (True, False)
    """
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int | None, *names: object, device: str | torch.device = "cpu") -> torch.Generator:
    """A generator for one use; ``seed=None`` draws the seed from the operating system."""
    chosen = secrets.randbits(63) if seed is None else derive_seed(seed, *names)
    return torch.Generator(device=device).manual_seed(chosen)


@contextlib.contextmanager
def seeded(seed: int, *names: object, devices: Sequence[torch.device] = ()) -> Iterator[None]:
    """Seeds the global random stream for one use while the block runs; what comes after it draws as if it were not.

    For layers that draw from no other stream: initial weights, dropout.

    Args:
        seed: The run's.
        names: Of the use, as in `derive_seed`.
        devices: CUDA devices whose streams are restored too; the CPU's always is.

    >>> with seeded(0, "init"): a = torch.rand(1)
    >>> with seeded(0, "init"): a == torch.rand(1)
    tensor([True])
    """
    with torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(derive_seed(seed, *names))
        yield


def resolve_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one, the CPU otherwise; any other name is taken as it is.

    Raises:
        ValueError: The device does not exist here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"expected auto, cpu, cuda or cuda:N as device, got {name!r}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"expected a machine with CUDA for device {name!r}, but torch sees none")
    return device
