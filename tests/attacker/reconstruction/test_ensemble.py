import torch

from splitleak.attacker.base import Knowledge, Query, Run
from splitleak.attacker.reconstruction.decoder import DecoderAttack, DecoderConfig
from splitleak.attacker.reconstruction.ensemble import EnsembleAttack, EnsembleConfig
from splitleak.attacker.training import fitting
from splitleak.seeding import derive_seed

DECODER = DecoderConfig(epochs=1, channels=4, blocks=0)


def known(small_splits):
    images = small_splits.public.floats()[:40]
    query = Query(nn_pool, recorded=True)
    return Knowledge(
        captured=nn_pool(small_splits.victims.floats()[:4]), image_shape=(1, 16, 16), public=images, query=query
    )


def nn_pool(images):
    return torch.nn.functional.avg_pool2d(images, 2)


def test_it_gives_the_mean_of_its_decoders_pictures_and_asks_once(small_splits):
    given = known(small_splits)
    attack = EnsembleAttack(EnsembleConfig(members=2, decoder=DECODER, widths=(4, 8)))
    rebuilt = attack(given, Run(seed=1))
    assert given.query.made == 40
    alone = [
        DecoderAttack(DECODER.model_copy(update={"channels": width}))(
            known(small_splits), Run(derive_seed(1, "ensemble", member))
        )
        for member, width in enumerate((4, 8))
    ]
    assert torch.allclose(rebuilt, torch.stack(alone).mean(0), atol=1e-6)
    assert len(attack.findings["members_held_out_mse"]) == 2
    assert attack.findings["variance_between"] > 0


def test_it_runs_on_more_values_than_are_kept_as_float32(small_splits, monkeypatch):
    """Its decoders ask for such a record in parts."""
    attack = EnsembleAttack(EnsembleConfig(members=2, decoder=DECODER))
    plain = attack(known(small_splits), Run(seed=1))
    monkeypatch.setattr(fitting, "_MOST_FLOATS", 40 * 64 - 1)
    torch.testing.assert_close(attack(known(small_splits), Run(seed=1)), plain, atol=0.05, rtol=0)
