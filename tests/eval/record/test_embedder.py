import pytest
import torch

from splitleak.datasets.images import Images
from splitleak.eval.record.embedder import embedded, load_embedder, vectors
from splitleak.graphs.importing import NetworkConfig
from splitleak.measures.linkage.verification import pair_scores


def split(images):
    """Eight people who are private, and four others."""
    own = images.labels < 8
    others = Images(images.pixels[~own], images.labels[~own] - 8, images.classes[8:])
    return Images(images.pixels[own], images.labels[own], images.classes[:8]), others


def test_pictures_are_resized_to_what_the_network_takes(embedder):
    network = load_embedder(embedder, NetworkConfig(), (1, 20, 20))
    grey = torch.full((5, 1, 20, 20), 51, dtype=torch.uint8)
    assert vectors(network, grey).tolist() == [pytest.approx([0.2] * 6)] * 5


def test_a_file_that_is_no_network_is_refused(tmp_path):
    (tmp_path / "face.onnx").write_bytes(b"no network")
    with pytest.raises(ValueError, match=r"face\.onnx"):
        load_embedder(tmp_path / "face.onnx", NetworkConfig(), (3, 8, 8))


def test_rebuilt_pictures_stand_between_true_photographs_and_those_of_others(embedder, people):
    private, others = split(people(each=10))
    network = load_embedder(embedder, NetworkConfig(), private.shape)
    rebuilt = torch.stack([private.floats()[private.labels == label][:2] for label in range(8)])
    rebuilt[::2] = others.floats()[:8].view(4, 2, 3, 8, 8)  # of every other person, somebody else's photographs
    found = embedded(network, rebuilt, private, others)
    assert (found.people, found.photographs, set(found.at)) == (12, 120, {"0.01", "0.001"})
    for rate, at in found.at.items():
        assert at.true.pairs == 8 * 10 * 9
        assert at.others.pairs == 80 * 120 - 800
        assert at.others.rate <= float(rate)
        assert at.true.rate > 0.9
        assert at.rebuilt.rate == pytest.approx(at.true.rate / 2, abs=0.1)
        assert at.rebuilt.pairs == 8 * 2 * 10
        assert at.rebuilt.error == pytest.approx(0.5345 / 8**0.5, abs=0.03)  # half of the people never, half always


def test_the_threshold_is_that_of_different_people_and_shares_are_means_over_classes(embedder, people):
    private, others = split(people(each=10))
    network = load_embedder(embedder, NetworkConfig(), private.shape)
    floats = private.floats()
    shares = torch.linspace(0, 1, 8)[:, None, None, None, None]  # of the next person's in the picture
    rebuilt = torch.stack([floats[label::8][:3] for label in range(8)])
    rebuilt = (1 - shares) * rebuilt + shares * rebuilt.roll(1, 0)
    at = embedded(network, rebuilt, private, others).at["0.01"]
    own, other = vectors(network, private.pixels), vectors(network, others.pixels)
    impostors = torch.cat(
        [
            pair_scores(own, own)[private.labels[:, None] != private.labels],
            pair_scores(other, own).flatten(),
        ]
    ).sort(descending=True)[0]
    threshold = impostors[int(0.01 * len(impostors))]
    pixels = (255 * rebuilt).round().byte()
    matched = [
        (pair_scores(vectors(network, pixels[label]), own[private.labels == label]) > threshold).double().mean()
        for label in range(8)
    ]
    assert at.rebuilt.rate == pytest.approx(float(torch.stack(matched).mean()))
    assert 0 < at.rebuilt.rate < 1


def test_with_one_photograph_of_each_and_few_of_them_there_is_no_ceiling_and_no_strict_rate(embedder, people):
    private = people(each=1)
    network = load_embedder(embedder, NetworkConfig(), private.shape)
    found = embedded(network, private.floats()[:, None], private)
    assert set(found.at) == {"0.01"}
    assert found.at["0.01"].true is None
    assert found.at["0.01"].rebuilt.rate == 1


def test_photographs_are_embedded_once(embedder, people, monkeypatch):
    private, others = split(people())
    network, cache = load_embedder(embedder, NetworkConfig(), private.shape), {}
    pictures = private.floats()[:8, None]
    first = embedded(network, pictures, private, others, cache)
    [key] = cache
    assert embedded(network, pictures, private, others, cache) == first
    assert [*cache] == [key]
    embedded(network, pictures, private, None, cache)
    assert len(cache) == 2
