import pytest

from splitleak.edge.profiles import DEVICES


def test_every_profile_is_found_by_its_name_and_says_what_it_rests_on():
    for name, profile in DEVICES.items():
        assert profile.name == name
        assert "assum" in profile.basis or "(" in profile.basis
    with pytest.raises(ValueError, match=r"expected a device of raspberry-pi-4, .* got 'abacus'"):
        DEVICES.choose("abacus")
