import pytest
import torch

from splitleak.attacker.base import Run
from splitleak.attacker.class_inversion import lomma
from splitleak.attacker.class_inversion.gmi import GMIConfig
from splitleak.attacker.class_inversion.ked import KEDMI
from splitleak.attacker.class_inversion.lomma import LommaConfig, LommaGMI, LommaGMIConfig, LommaKED, teach

QUICK = {"students": 1, "student_epochs": 2, "student_steps": 0, "steps": 2, "agreement": 0}


@pytest.mark.slow
def test_a_student_learns_the_models_answers(searched):
    student = teach(
        searched.model, searched.public, LommaConfig(student_epochs=20, student_steps=0, student_rate=0.01), Run(), 0
    )
    agreed = student(searched.public).argmax(1) == searched.model(searched.public).argmax(1)
    assert agreed.float().mean() > 0.5
    assert not any(parameter.requires_grad for parameter in student.parameters())
    other = teach(searched.model, searched.public, LommaConfig(student_epochs=1, student_steps=0), Run(), 1)
    assert not torch.allclose(other(searched.public[:4]), student(searched.public[:4]))


def test_the_loss_is_the_mean_of_minus_the_logits_and_the_distance_from_the_mean_feature(searched):
    attack = LommaGMI(LommaGMIConfig(**QUICK, regulariser=2.0))
    search, labels = attack.prepare(searched, Run()), torch.tensor([3, 1])
    images = searched.public[:2]
    with torch.no_grad():
        logits = torch.stack([searched.model(images), attack.students[0](images)])
        features = searched.model[:-1](searched.public)
        apart = features[:2] - features.mean(0)
        expected = -logits.mean(0)[torch.arange(2), labels] + 2 * apart.square().mean(1)
        assert torch.allclose(attack.identity(search, images, labels), expected, atol=1e-4)
        own = logits[0].softmax(1)[torch.arange(2), labels].mean()
    assert search.pop_confidence()["confidence"] == pytest.approx(float(own), abs=1e-5)  # of the target alone
    assert search.pop_confidence() == {}


def test_where_features_are_matched_they_take_the_place_of_the_logits_and_of_the_students(searched):
    attack = LommaGMI(LommaGMIConfig(**QUICK, identity={"loss": "features", "each": 3}, regulariser=2.0))
    search, labels = attack.prepare(searched, Run()), torch.tensor([3, 1])
    with torch.no_grad():
        features = searched.model[:-1](searched.public)
        expected = search.goal.distance(features[:2], labels)  # to which nothing adds what it is to regularise
        assert torch.allclose(attack.identity(search, searched.public[:2], labels), expected, atol=1e-4)
    assert attack.students == []


@pytest.mark.parametrize("students", [0, 2])
def test_it_runs_on_top_of_gmi_with_any_number_of_students(searched, students):
    attack = LommaGMI(LommaGMIConfig(**{**QUICK, "students": students}))
    assert attack(searched).shape == (10, 5, *searched.image_shape)
    assert len(attack.students) == students


def test_only_students_that_agree_on_images_they_have_not_seen_have_a_say(searched, monkeypatch):
    seen = []

    def taught(model, public, config, run, turn):
        seen.append(public)
        return model if turn else lambda images: -model(images)

    monkeypatch.setattr(lomma, "teach", taught)
    attack = LommaGMI(LommaGMIConfig(students=2, steps=2))
    attack.prepare(searched, Run())
    (heard,) = attack.students
    assert torch.allclose(heard(searched.public), searched.model(searched.public), atol=1e-4)
    assert attack.findings["student_agreement"] == [1.0]
    assert len(attack.findings["students_left_out"]) == 1
    assert attack.findings["students_left_out"][0] < 0.85
    assert [len(public) for public in seen] == [len(searched.public) - len(searched.public) // 10] * 2
    assert "agreement" in LommaGMIConfig().document()
    assert "agreement" not in LommaGMIConfig(students=0).document()


def test_on_top_of_ked_it_needs_no_prior():
    assert LommaKED.needs == {"model", "public"}
    assert LommaGMI.needs == {"model", "public", "prior"}


def test_it_keeps_the_published_settings_of_what_it_stands_on():
    published = LommaGMI.paper_config()
    assert published.identity == "logit"
    assert published.regulariser == 1
    assert published.steps == 2400
    assert published.bound == GMIConfig().bound
    assert LommaKED.paper_config().gan == KEDMI.paper_config().gan
