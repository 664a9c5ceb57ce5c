import pytest
import torch
from PIL import Image

from splitleak.eval.targets.attributes import known, read_attributes


def test_attributes_are_told_by_set_and_index(small_splits, tmp_path):
    file = tmp_path / "a.csv"
    file.write_text("index,set,age,glasses\n0,victims,old,yes\n2,victims,,no\n1,public,young,yes\n")
    found = read_attributes(file, small_splits)
    assert list(found) == ["age", "glasses"]
    assert found["age"].values == ("old", "young")
    assert found["age"].victims[:3].tolist() == [0, -1, -1]
    assert found["age"].public[:3].tolist() == [-1, 1, -1]
    assert found["glasses"].victims[:3].tolist() == [1, -1, 0]
    assert int(known(found["glasses"].victims).sum()) == 2


def test_attributes_are_told_by_the_file_of_the_picture(small_splits, tmp_path):
    (tmp_path / "faces").mkdir()
    for name, images, place in (("a", small_splits.victims, 4), ("b", small_splits.public, 7)):
        Image.fromarray(images.pixels[place, 0].numpy()).save(tmp_path / "faces" / f"{name}.png")
    Image.fromarray(torch.zeros(16, 16, dtype=torch.uint8).numpy()).save(tmp_path / "faces" / "other.png")
    file = tmp_path / "a.csv"
    file.write_text("file,hat\nfaces/a.png,yes\nfaces/b.png,no\nfaces/other.png,no\n", encoding="utf-8-sig")
    hat = read_attributes(file, small_splits)["hat"]
    assert hat.values == ("no", "yes")
    assert (known(hat.victims).nonzero().tolist(), int(hat.victims[4])) == ([[4]], 1)
    assert (known(hat.public).nonzero().tolist(), int(hat.public[7])) == ([[7]], 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected the columns file, or set and index, and one of each attribute, got none"),
        ("set,index\n", "expected the columns file, or set and index"),
        ("name,hat\n", "got name, hat"),
        ("set,index,hat\ntrain,0,yes\n", "line 2: expected a set of public, victims and an index of it, got 'train'"),
        ("set,index,hat\npublic,-1,yes\n", "got 'public' and '-1'"),
        ("set,index,hat\npublic,9999999,yes\n", "got 'public' and '9999999'"),
        ("set,index,hat\npublic,1\n", "expected 3 values in line 2, got 2"),
        ("set,index,hat\npublic,1,yes,no\n", "expected 3 values in line 2, got 4"),
        ('set,index,hat\npublic,1,"yes\n', "a.csv: expected a CSV file of attributes, but unexpected end of data"),
        ("set,index,hat,hat\npublic,1,yes,no\n", "expected columns of different names"),
        ("set,index,hat\npublic,1,yes\npublic,1,no\n", "line 3: expected one row a picture"),
        ("set,index,hat\n", "expected pictures of the split, got none among 0 rows"),
    ],
)
def test_a_file_that_tells_no_attribute_is_refused(text, said, small_splits, tmp_path):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=said):
        read_attributes(tmp_path / "a.csv", small_splits)


def test_what_is_not_there_is_named(small_splits, tmp_path):
    with pytest.raises(FileNotFoundError, match="expected a CSV file of attributes"):
        read_attributes(tmp_path / "a.csv", small_splits)
    (tmp_path / "a.csv").write_text("file,hat\nnone.png,yes\n")
    with pytest.raises(FileNotFoundError, match=r"a\.csv: expected the name of a picture, got 'none\.png'"):
        read_attributes(tmp_path / "a.csv", small_splits)
    (tmp_path / "a.csv").write_text('file,hat\n"no\nne\0.png",yes\n')
    with pytest.raises((FileNotFoundError, ValueError), match=r"a\.csv") as caught:
        read_attributes(tmp_path / "a.csv", small_splits)
    assert "\n" not in str(caught.value)


def test_what_is_no_text_and_no_picture_is_named(small_splits, tmp_path):
    (tmp_path / "a.csv").write_bytes(b"set,index,hat\npublic,1,\xff\n")
    with pytest.raises(ValueError, match=r"a\.csv: expected a CSV file of attributes, but 'utf-8' codec"):
        read_attributes(tmp_path / "a.csv", small_splits)
    (tmp_path / "a.csv").write_text("file,hat\na.png,yes\n")
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"a\.png: expected a picture, but"):
        read_attributes(tmp_path / "a.csv", small_splits)
