"""Channel means and deviations, in one place: models normalise with these, everything else speaks [0, 1]."""

from splitleak.config import Config


class Normalisation(Config):
    """What a model subtracts and divides by, per channel, of images in [0, 1]; stored with the model."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


# The published code's constants for FaceScrub and TinyImageNet are not channel statistics (it indexes images, not
# channels); they are kept out on purpose. A data set that is not listed is normalised to [-1, 1].
_KNOWN = {
    "cifar10": Normalisation(mean=(0.4914, 0.4822, 0.4465), std=(0.247, 0.243, 0.261)),
    "cifar100": Normalisation(mean=(0.50708, 0.48655, 0.44092), std=(0.26733, 0.25644, 0.27615)),
    "fashion-mnist": Normalisation(mean=(0.286,), std=(0.353,)),
    "mnist": Normalisation(mean=(0.1307,), std=(0.3081,)),
    "tiny-imagenet": Normalisation(mean=(0.480, 0.448, 0.398), std=(0.277, 0.269, 0.282)),
}
_NAMES = {"builtin": "fashion-mnist", "cifar10_5k": "cifar10", "cifar10_jpeg": "cifar10", "mnist_17k": "mnist"}


def normalisation(dataset: str, channels: int) -> Normalisation:
    """The constants for a data set by name (``Dataset.name``), or mean 0.5 and deviation 0.5 for one not listed.

    A grey model of a colour set gets the average over channels, a colour model of a grey set its constants thrice.
    """
    name = dataset.replace("_", "-") if dataset not in _NAMES else _NAMES[dataset]
    known = _KNOWN.get(name, Normalisation(mean=(0.5,), std=(0.5,)))
    if len(known.mean) == channels:
        return known
    mean, std = sum(known.mean) / len(known.mean), sum(known.std) / len(known.std)
    return Normalisation(mean=(mean,) * channels, std=(std,) * channels)
