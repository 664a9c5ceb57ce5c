from pathlib import Path

import pytest

from splitleak.eval.campaign.audit.config import AuditConfig, AuditedTarget


def test_a_target_and_its_images_are_folders_that_are_there(tmp_path, monkeypatch):
    (tmp_path / "target").mkdir()
    (tmp_path / "images").mkdir()
    monkeypatch.chdir(tmp_path)
    found = AuditedTarget.found(Path("target"), Path("images"), "uint8")
    assert (found.artifact, found.images, found.codec) == (tmp_path / "target", tmp_path / "images", "uint8")
    with pytest.raises(FileNotFoundError, match="expected a folder at gone, found none"):
        AuditedTarget.found(Path("gone"), Path("images"), "fp32")
    with pytest.raises(ValueError, match="codec"):
        AuditedTarget.found(Path("target"), Path("images"), "morse")


@pytest.mark.parametrize("given", [{"threat": "psychic"}, {"minutes": 0}, {"epochs": 3}])
def test_there_are_no_knobs_but_a_threat_model_and_a_budget(given):
    with pytest.raises(ValueError, match=next(iter(given))):
        AuditConfig.parse(given, source="audit")
