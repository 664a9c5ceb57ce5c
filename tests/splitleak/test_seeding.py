import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from splitleak.seeding import derive_seed, generator, resolve_device, seeded


@given(st.integers(0, 2**64), st.lists(st.text(max_size=5), max_size=3))
def test_a_derived_seed_is_one_that_torch_takes_and_repeats(seed, names):
    derived = derive_seed(seed, *names)
    assert 0 <= derived < 2**63
    assert derived == derive_seed(seed, *names)
    torch.Generator().manual_seed(derived)


def test_seeds_and_names_give_streams_of_their_own():
    uses = [(seed, name, index) for seed in range(20) for name in ("noise", "order") for index in range(20)]
    assert len({derive_seed(*use) for use in uses}) == len(uses)


def test_a_seeded_block_draws_by_its_names_and_leaves_the_global_stream_as_it_was():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with seeded(0, "init"):
        drawn = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with seeded(0, "init"):
        assert torch.equal(torch.rand(3), drawn)
    with seeded(0, "dropout"):
        assert not torch.equal(torch.rand(3), drawn)


def test_the_derivation_is_the_one_that_old_results_were_made_with():
    assert derive_seed(0, "noise") == 0x8E53F176B2D0581F >> 1  # from sha256sum of "0/noise"


def drawn(*use):
    return torch.rand(4, generator=generator(*use))


def test_generators_repeat_under_a_seed_and_never_without():
    assert torch.equal(drawn(0, "a"), drawn(0, "a"))
    assert not torch.equal(drawn(0, "a"), drawn(0, "b"))
    assert not torch.equal(drawn(None, "a"), drawn(None, "a"))


def test_auto_is_a_device_that_exists():
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve_device("auto") == torch.device(expected)
    assert resolve_device("cpu") == torch.device("cpu")


def test_an_unknown_device_is_refused():
    with pytest.raises(ValueError, match="expected auto, cpu, cuda or cuda:N as device, got 'gpu'"):
        resolve_device("gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_is_refused_where_there_is_none():
    with pytest.raises(ValueError, match="expected a machine with CUDA for device 'cuda:0'"):
        resolve_device("cuda:0")
