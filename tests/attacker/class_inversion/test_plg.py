import torch

from splitleak.attacker.base import Run
from splitleak.attacker.class_inversion.plg import PLGMI, PLGConfig
from splitleak.attacker.training.adversarial import play

GAN = {"width": 4, "batch_size": 8, "iterations": 30, "beta1": 0}
QUICK = {"gan": GAN, "steps": 3, "restarts": 2}


def test_the_generator_is_told_the_class(searched):
    attack = PLGMI(PLGConfig(**QUICK))
    generator, critic = attack.networks(searched, Run(), searched.model)
    assert generator.config.classes == 10
    assert critic.classes is not None
    assert any(name.startswith("generator.") for name in attack.weights())


def test_the_public_images_that_the_model_is_surest_of_stand_for_a_class(searched, monkeypatch):
    seen = []

    def watched(game, count, config, run, *, identity):
        seen.append((game.images, game.labels, count))
        return []

    monkeypatch.setattr("splitleak.attacker.class_inversion.plg.play", watched)
    PLGMI(PLGConfig(**QUICK, each=3)).networks(searched, Run(), searched.model)
    ((images, labels, count),) = seen
    assert count == 30
    scores = searched.model(searched.public).softmax(1)
    for label in range(10):
        best = searched.public[scores[:, label].topk(3).indices]
        assert torch.equal(images[labels == label], best)


def test_it_gives_every_restart(searched):
    rebuilt = PLGMI(PLGConfig(**QUICK))(searched)
    assert rebuilt.shape == (10, 2, *searched.image_shape)


def test_the_published_settings_are_plgs():
    published = PLGMI.paper_config()
    assert (published.steps, published.learning_rate, published.restarts) == (600, 0.1, 5)
    assert (published.each, published.margin_weight, published.identity) == (30, 0.2, "max-margin")
    assert (published.gan.iterations, published.gan.critic_steps, published.gan.beta1) == (30_000, 5, 0)
    assert published.views == PLGConfig().views.model_copy(update={"mirror": True})


def test_half_the_bits_where_a_device_is_built_for_them_leave_the_rest_in_single_precision(searched, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": True}, raising=False)
    seen = []

    def watched(game, count, config, run, *, identity):
        images = game.draw(torch.randn(4, config.latent), torch.arange(4))
        seen.append(images)
        assert game.critic_loss(torch.arange(4), images, torch.arange(4)).dtype == torch.float32
        assert game.generator_loss(torch.arange(4), images, torch.arange(4)).dtype == torch.float32
        return play(game, count, config, run, identity=identity)

    monkeypatch.setattr("splitleak.attacker.class_inversion.plg.play", watched)
    rebuilt = PLGMI(PLGConfig(**QUICK))(searched)
    assert {images.dtype for images in (*seen, rebuilt)} == {torch.float32}
