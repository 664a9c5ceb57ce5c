"""The shape of the repository: its top level, a test for every module, and no big file."""

import ast
import os
import subprocess
from collections import Counter
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("splitleak", "defenses", "edge", "cloud", "attacker", "eval")
FIXED = {"pyproject.toml", "proto", *ROOMS, "tests", "README.md"}
HABITS = {"LICENSE", "NOTICE", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", ".pre-commit-config.yaml"}
OPTIONAL = {"Makefile", ".ci", ".gitignore", "docs", "mkdocs.yml", *HABITS}
MEBIBYTE = 2**20
FILES_A_FOLDER = 20

# Modules that have no test of their own yet. This list may only shrink: a module with a test may not be in it.
UNTESTED = frozenset({"defenses/base.py", "splitleak/datasets/builtin.py", "splitleak/errors.py"})

# Tests of what is generated, whose modules are nobody's to test one by one.
OF_GENERATED_CODE = frozenset({"tests/splitleak/wire/protocol/test_stubs.py"})


def tracked():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [Path(name) for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]


def has_code(path):
    """Whether a module holds more than a docstring."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return len(body) > (ast.get_docstring(ast.Module(body, [])) is not None)


def modules():
    """Every module with code, each once: the rooms are also seen through links in ``splitleak/``."""
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            linked = any(parent.is_symlink() for parent in path.parents)
            if "pb" not in path.parent.parts and not linked and has_code(path):
                yield path.relative_to(ROOT)


def mirror(module):
    """Where the tests of a module are; a table of a package (its ``__init__``) is tested by a contract or a test."""
    return Path("tests") / module.parent / f"test_{module.name}"


def test_the_top_level_is_the_fixed_one():
    top = {path.parts[0] for path in tracked()}
    assert top >= FIXED
    assert top <= FIXED | OPTIONAL


def test_one_name_is_installed_and_every_room_is_a_package_of_it():
    assert metadata.distribution("splitleak").read_text("top_level.txt").split() == ["splitleak"]
    links = {room: os.readlink(ROOT / "splitleak" / room) for room in ROOMS if room != "splitleak"}
    assert links == {room: f"../{room}" for room in links}


def test_no_folder_of_product_code_holds_more_than_20_files():
    counts = Counter(path.parent for path in tracked() if path.parts[0] in ROOMS and path.suffix == ".py")
    assert not {str(folder): count for folder, count in counts.items() if count > FILES_A_FOLDER}


def test_every_module_has_a_test_in_its_place():
    found = [module for module in modules() if module.name != "__init__.py"]
    assert len(found) > 50
    lacking = {str(module) for module in found if not (ROOT / mirror(module)).is_file()}
    assert lacking == UNTESTED


def test_every_test_is_of_a_module_that_exists():
    known = {mirror(module) for module in modules()}
    astray = [
        path
        for room in ROOMS
        for path in sorted((ROOT / "tests" / room).rglob("test_*.py"))
        if path.relative_to(ROOT) not in known and str(path.relative_to(ROOT)) not in OF_GENERATED_CODE
    ]
    assert not astray


def test_no_tracked_file_is_over_5_mebibytes():
    big = {str(path): (ROOT / path).stat().st_size for path in tracked()}
    assert not {path: size for path, size in big.items() if size > 5 * MEBIBYTE}
