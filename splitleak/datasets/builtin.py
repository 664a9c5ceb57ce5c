"""The images that ship with splitleak: 9,000 of Fashion-MNIST's 70,000, enough for the demo and for every test."""

from importlib.resources import as_file, files

from splitleak.datasets.files import load_file
from splitleak.datasets.images import Dataset


def load_builtin() -> Dataset:
    """700 training and 200 test images of each of the ten classes, 28 × 28, grey.

    Xiao, Rasul and Vollgraf, "Fashion-MNIST", 2017, arXiv:1708.07747; MIT licence (`FASHION_MNIST_LICENSE.txt`
    beside the file, which also says how the subset was taken).
    """
    with as_file(files("splitleak.datasets") / "fashion_mnist_9k.npz") as path:
        loaded = load_file(path)
    return Dataset("builtin", loaded.train, loaded.test)
