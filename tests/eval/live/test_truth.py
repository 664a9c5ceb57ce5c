import pytest
import torch

from splitleak.eval.live.truth import true_picture


def test_the_id_of_a_streamed_request_tells_its_picture_and_others_tell_none(small_splits, tmp_path):
    images = small_splits.victims
    images.save(tmp_path / "victims.npz")
    picture = true_picture(tmp_path / "victims.npz")
    for name in ("0123abcd-3", "0123abcd-3-7"):
        assert torch.equal(picture(name), images.floats()[3])
    for name in (f"0123abcd-{len(images)}", "probe-0123456789ab-3", "3", "", "0123abcd-x", "0123abcd-3-7-1"):
        assert picture(name) is None
    with pytest.raises(FileNotFoundError):
        true_picture(tmp_path / "nothing.npz")
