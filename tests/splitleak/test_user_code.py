"""Code of the user's own is found by its address, in the current folder too, and fails in one line."""

import sys

import pytest

from splitleak.user_code import current_folder_first, load_attribute, reason


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, code in {"good": "class A:\n    value = 3", "broken": "1 / 0", "typo": "def ("}.items():
        (tmp_path / f"of_user_{name}.py").write_text(code)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("of_user_")]:
        del sys.modules[name]


def test_an_attribute_of_an_attribute_is_found_and_the_path_is_as_before(here):
    before = list(sys.path)
    assert load_attribute("of_user_good:A.value", "a number") == 3
    assert sys.path == before


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("of_user_good", "expected module:callable, got 'of_user_good'"),
        (":x", "expected module:callable"),
        ("of_user_good:B", "expected a number at of_user_good:B, but AttributeError"),
        ("of_user_gone:B", "ModuleNotFoundError: No module named 'of_user_gone'"),
        ("of_user_broken:B", "ZeroDivisionError: division by zero"),
        ("of_user_typo:B", "SyntaxError"),
    ],
)
def test_what_is_not_there_or_fails_is_said_in_one_line(here, address, said):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        load_attribute(address, "a number")
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_an_error_without_a_message_has_its_name(here):
    assert reason(KeyError()) == "KeyError: no message"
    with current_folder_first():
        assert sys.path[0] == str(here)
        sys.path.remove(str(here))
