import pytest

from splitleak.attacker.auxiliary import AUXILIARY


def test_every_kind_says_what_it_is_and_what_its_images_may_be():
    assert set(AUXILIARY) == {"same", "generic", "distinct", "training"}
    assert all(kind.about for kind in AUXILIARY.values())
    assert [name for name, kind in AUXILIARY.items() if kind.trained_on] == ["training"]
    with pytest.raises(ValueError, match=r"expected a kind of auxiliary images of same, .*; did you mean 'generic'"):
        AUXILIARY.choose("genric")
