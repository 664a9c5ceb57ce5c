"""Permutation: the channels sent are in an order that only edge and cloud know, another in each session."""

import torch
from pydantic import Field
from torch import Tensor, nn

from splitleak.config import Config
from splitleak.defenses.base import Defense
from splitleak.models.split import SplitModel
from splitleak.seeding import generator

_SMALLEST, _LARGEST = -3, 5  # powers of two of a message's largest value, in which a one of the number is sent as 1


class PermutationConfig(Config):
    """The secret, and how many orders follow from it."""

    secret: int = Field(default=0, ge=0, description="of edge and cloud: an order follows from it and from a session")
    bits: int = Field(default=12, ge=1, le=16, description="of a session's number, which is sent along in the clear")


class Permutation(Defense):
    """Sends the channels in an order that is drawn for each session; the cloud puts them back before the head.

    After Xu et al., "Permutation equivariance of transformers and its applications", CVPR 2024, who shuffle what is
    sent; here by a secret of edge and cloud. A session is the life of an edge's process (in training, each batch); its
    number is drawn from ``2^bits``, and travels in one more channel of zeros and ones; where the largest value of a
    message is below 1/8 or from 64 on, the ones are a 64th to a 32nd of it, so that a codec of 8 bits keeps both. What
    draws, as noise or dropout, comes before it in a stack: after it, it would be drawn over the number, too. Features
    ``(N, C, H, W)``, or ``(N, H, W, C)`` (see `channels_last`), become ``(N, C + 1, H, W)``.

    What it is good for: an eavesdropper who compares features of *different* sessions value by value. What it is not:
    the cloud knows the order, and who has the edge's half knows the secret and undoes it; within a session all
    distances stay as they are, so that whoever sends pictures of their own in the session finds, and rebuilds, as
    before; and across sessions an order hides little: the values at each place are the same whatever it is
    (``unordered`` in `splitleak linkage`), and who sees some two hundred features in each of two sessions matches each
    channel's mean map between them, which gives the order back, also through noise that sorting does not survive
    (``aligned``).

    Raises:
        ValueError: The features are not ``(C, H, W)`` with room for the number of a session.
    """

    name = "permutation"
    config_type = PermutationConfig

    def __init__(self, config: PermutationConfig) -> None:
        super().__init__(config)
        self.config = config
        self._drawn_from: torch.Generator | None = None
        self._session = 0
        self.register_buffer("orders", None, persistent=False)
        self.orders: Tensor | None  # (sessions, channels), in a training, and once an order was undone

    @property
    def public_channels(self) -> int:
        return 1  # the session's number

    def prepare(self, model: SplitModel, classes: int) -> None:
        model.send_channels_first()
        shape = model.feature_shape
        if len(shape) != 3 or shape[1] * shape[2] < self.config.bits:
            expected = f"features (C, H, W) of at least {self.config.bits} places"
            raise ValueError(f"permutation: expected {expected}, got {shape}")
        self.orders = self._all_orders(shape[0])
        model.encoder = nn.Sequential(model.encoder, _Plane())
        model.head = nn.Sequential(_Restored(self.orders.argsort(1), shape[1] * shape[2]), model.head)

    def order(self, session: int, channels: int) -> Tensor:
        """The order ``(C,)`` in which a session's channels are sent."""
        draw = generator(self.config.secret, "permutation", session)
        return torch.randperm(channels, generator=draw, device="cpu")

    def _all_orders(self, channels: int) -> Tensor:
        """Of every session ``(sessions, C)``."""
        return torch.stack([self.order(session, channels) for session in range(2**self.config.bits)])

    def forward(self, features: Tensor) -> Tensor:
        if self.training and self.orders is not None:  # the number is not read from the device
            session = self._draw(features.device)
            order = self.orders.index_select(0, session)[0]
        else:
            if self.training or self._drawn_from is not self.generator or self.generator is None:
                self._drawn_from = self.generator
                self._session = int(self._draw("cpu" if self.generator is None else self.generator.device))
            session = torch.tensor([self._session], device=features.device)
            order = self.order(self._session, features.shape[1] - 1).to(features.device)
        return self._sent(features, order, session)

    def expected(self, features: Tensor) -> Tensor:
        """As the first of all sessions sends it: in another the channels are the same, in another order."""
        order = self.order(0, features.shape[1] - 1).to(features.device)
        return self._sent(features, order, torch.zeros(1, dtype=torch.int64, device=features.device))

    def undone(self, sent: Tensor, crossings: int = 1) -> Tensor:
        if self.orders is None:  # an edge's half, which is not prepared
            self.orders = self._all_orders(sent.shape[1] - 1)
        restored = _Restored(self.orders.argsort(1), sent[0, 0].numel()).to(sent.device)
        return torch.cat([restored(sent), torch.zeros_like(sent[:, :1])], 1)

    def _sent(self, features: Tensor, order: Tensor, session: Tensor) -> Tensor:
        """Features ``(N, C + 1, H, W)`` in an order ``(C,)``, with the number of the session ``(1,)``."""
        places = torch.arange(features[0, 0].numel(), device=features.device)
        number = (session >> places % self.config.bits) & 1
        power = features.detach().abs().amax().log2().floor()
        size = torch.where((power < _SMALLEST) | (power > _LARGEST), (power - _LARGEST).exp2(), 1)
        plane = (size * number).to(features).view(1, 1, *features.shape[2:]).expand(len(features), -1, -1, -1)
        return torch.cat([features[:, :-1][:, order], plane], 1)

    def _draw(self, device: torch.device | str) -> Tensor:
        """The number of a new session ``(1,)``."""
        return torch.randint(2**self.config.bits, (1,), generator=self.generator, device=device)


class _Plane(nn.Module):
    """Makes room for the number of the session: one more channel."""

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([features, torch.zeros_like(features[:, :1])], 1)


class _Restored(nn.Module):
    """Reads the session's number from the last channel, and puts the others back into their order."""

    def __init__(self, places: Tensor, cells: int) -> None:
        """``places`` ``(sessions, C)``: where each channel is; ``cells``: of a channel."""
        super().__init__()
        bits = len(places).bit_length() - 1
        mean = torch.nn.functional.one_hot(torch.arange(cells, device="cpu") % bits, bits).float()
        self.register_buffer("places", places)
        self.register_buffer("mean", mean / mean.sum(0))
        self.register_buffer("values", 2 ** torch.arange(bits, device="cpu"))
        self.places: Tensor
        self.mean: Tensor
        self.values: Tensor

    def forward(self, sent: Tensor) -> Tensor:
        features, plane = sent[:, :-1], sent[:, -1].flatten(1).to(self.mean)
        read = plane @ self.mean
        session = ((read > read.amax(1, keepdim=True) / 2) * self.values).sum(1)
        places = self.places[session][:, :, None, None].expand_as(features)
        return features.gather(1, places)
