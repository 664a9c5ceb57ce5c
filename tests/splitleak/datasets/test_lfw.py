import torch

from splitleak.datasets import load
from splitleak.datasets.splits import SplitConfig, split


def test_there_are_a_hundred_faces_of_which_none_is_twice():
    faces = load("lfw")
    assert (faces.name, faces.train.classes) == ("lfw", ("face",))
    assert faces.train.pixels.shape == (90, 1, 25, 25)
    assert faces.test.pixels.shape == (10, 1, 25, 25)
    assert len({*faces.train.hashes(), *faces.test.hashes()}) == 100


def test_a_face_is_lighter_amidst_than_at_the_eyes():
    mean = torch.cat([part.floats() for part in (load("lfw").train, load("lfw").test)]).mean(0)[0]
    assert mean[12:16, 11:14].mean() > mean[8, 6:9].mean() + 0.1


def test_they_are_an_attackers_own_like_any_data_set():
    public = split(load("lfw").fitted(32, 1), SplitConfig(public=88, victims=1, train=1, test=1)).public
    assert public.pixels.shape == (88, 1, 32, 32)
