import dataclasses
from typing import ClassVar

import pytest
import torch

from splitleak.attacker.base import Query
from splitleak.attacker.class_inversion.base import ClassInversion, ClassKnowledge, check_width
from splitleak.config import Config

SHAPE = (1, 4, 4)


class Fixed(ClassInversion):
    """Gives what it was made with."""

    name = "fixed"
    config_type = Config
    access = "score"
    needs: ClassVar[frozenset[str]] = frozenset({"query", "public"})

    def __init__(self, images):
        super().__init__(Config())
        self.images = images

    def invert(self, known, run):
        return self.images


def known(**given):
    return ClassKnowledge(SHAPE, **{"public": torch.zeros(2, *SHAPE), "query": Query(lambda images: images), **given})


def test_knowledge_has_no_place_for_the_training_images_nor_for_the_judge():
    fields = {field.name for field in dataclasses.fields(ClassKnowledge)}
    assert fields == {"image_shape", "classes", "public", "query", "labels", "model", "prior"}
    with pytest.raises(dataclasses.FrozenInstanceError):
        known().model = None


def test_images_are_clamped_and_all_classes_are_there():
    found = Fixed(torch.tensor([-1.0, 0.25, 7.0]).view(3, 1, 1, 1, 1).expand(3, 2, *SHAPE))(known())
    assert found[:, 1, 0, 0, 0].tolist() == [0, 0.25, 1]


@pytest.mark.parametrize("missing", ["public", "query"])
def test_what_the_threat_model_withholds_is_refused_by_name(missing):
    with pytest.raises(PermissionError, match=f"'fixed' needs '{missing}', which this threat model withholds"):
        Fixed(torch.zeros(3, *SHAPE))(known(**{missing: None}))


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(0, 1, *SHAPE),
        torch.zeros(3, 0, *SHAPE),
        torch.zeros(3, *SHAPE),
        torch.zeros(3, 1, 1, 4, 5),
        torch.zeros(2, 1, *SHAPE),
        torch.full((3, 1, *SHAPE), torch.nan),
    ],
)
def test_anything_but_finite_images_of_every_class_is_refused(images):
    with pytest.raises(RuntimeError, match=r"'fixed': expected finite images \(3, 1, 1, 4, 4\)"):
        Fixed(images)(known(classes=3))


def test_no_image_at_all_is_refused_where_the_number_of_classes_is_unknown():
    with pytest.raises(RuntimeError, match=r"expected finite images \(1, 1, 1, 4, 4\)"):
        Fixed(torch.zeros(0, 1, *SHAPE))(known())


def test_public_images_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"'fixed': expected public images \(1, 4, 4\), got \(1, 8, 8\)"):
        Fixed(torch.zeros(3, *SHAPE))(known(public=torch.zeros(2, 1, 8, 8)))


def test_an_attack_on_scores_is_refused_a_service_that_gives_labels_alone():
    labels = Query(lambda images: images, answers="labels")
    with pytest.raises(PermissionError, match="'fixed' needs scores, but this threat model answers with labels alone"):
        Fixed(torch.zeros(3, 1, *SHAPE))(known(query=labels))


def test_a_prior_of_images_of_another_shape_is_refused(tiny_prior):
    with pytest.raises(ValueError, match=r"'fixed': expected a prior of images \(1, 4, 4\), got \(1, 16, 16\)"):
        Fixed(torch.zeros(3, 1, *SHAPE))(known(prior=tiny_prior))


def test_answers_of_another_number_of_classes_are_refused():
    check_width("fixed", known(), 7)
    check_width("fixed", known(classes=7), 7)
    with pytest.raises(ValueError, match="'fixed': expected scores of 6 classes, got 7"):
        check_width("fixed", known(classes=6), 7)


def test_an_attack_that_runs_the_model_itself_ignores_what_the_service_does_to_its_scores():
    class White(Fixed):
        access = "white"

    assert White.ignores_output_policy()
    assert not Fixed.ignores_output_policy()
