"""Every example in a docstring is run by the suite: once, and of the module under its installed name."""

import os
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def modules_with_examples():
    """By installed name, every module of the package whose source holds an example; links are followed, once each."""
    for folder, _, files in os.walk(ROOT / "splitleak", followlinks=True):
        for file in files:
            path = Path(folder, file)
            if path.suffix == ".py" and ">>> " in path.read_text(encoding="utf-8"):
                yield ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_every_module_with_an_example_is_collected_once_under_its_installed_name(request):
    config = request.config
    asked = {os.path.relpath(ROOT / name, ROOT) for name in config.args}
    if config.option.keyword or not asked >= set(config.getini("testpaths")):
        pytest.skip("only the whole suite collects every example")
    collected = [item for item in request.session.items if isinstance(item, pytest.DoctestItem)]
    assert {item.dtest.globs["__name__"] for item in collected} == set(modules_with_examples())
    assert set(Counter(item.name for item in collected).values()) == {1}
