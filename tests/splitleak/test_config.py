import json
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError, field_validator

from splitleak.config import Config, digest, explain, read_document, read_lines, read_table


class Inner(Config):
    sizes: tuple[int, ...] = (1, 2)


class Other(Config):
    shape: int = 1


class Outer(Config):
    rate: float = Field(default=0.5, ge=0)
    inner: Inner = Inner()


class Listed(Config):
    several: tuple[Outer, ...] = ()
    named: dict[str, Inner] = Field(default_factory=dict)
    either: Annotated[Inner | Other | None, Field(description="one of two")] = None


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rat": 0.1}, "here: expected a Outer, but rat: Extra inputs are not permitted, got 0.1; did you mean 'rate'"),
        ({"rate": -1}, "rate: .*greater than or equal to 0, got -1"),
        ({"rate": float("nan")}, "rate: .*got nan"),
        ({"rate": float("inf")}, "rate: .*finite number, got inf"),
        ({"inner": {"sizes": [1, "x"]}}, "inner.sizes.1: .*valid integer.*, got 'x'"),
        ([], r"document: .*, got \[\]"),
    ],
)
def test_a_fault_names_source_key_expectation_and_value(values, message):
    with pytest.raises(ValueError, match=message):
        Outer.parse(values, source="here")


@pytest.mark.parametrize(
    ("values", "asked"),
    [
        ({"severl": []}, "severl: .*; did you mean 'several'"),
        ({"several": [{}, {"inner": {"size": 1}}]}, "several.1.inner.size: .*; did you mean 'sizes'"),
        ({"named": {"rate": {"sizs": 1}}}, "named.rate.sizs: .*; did you mean 'sizes'"),
        ({"either": {"shap": 1}}, "shap: .*; did you mean 'shape'"),
        ({"unlike": 1}, "unlike: Extra inputs are not permitted, got 1; there are several, named, either$"),
    ],
)
def test_an_unknown_key_is_told_the_nearest_field_of_its_own_table_or_all(values, asked):
    with pytest.raises(ValueError, match=asked):
        Listed.parse(values, source="here")


def test_all_faults_are_named_at_once():
    with pytest.raises(ValueError, match=r"rate: .*; .*surplus: "):
        Outer.parse({"rate": "fast", "surplus": 1}, source="here")


class Port(Config):
    number: int = 1

    @field_validator("number")
    @classmethod
    def _small(cls, number: int) -> int:
        if number > 2:
            raise ValueError(f"expected at most 2, got {number}")
        return number


def test_what_a_validator_of_ours_says_is_said_once():
    with pytest.raises(ValueError, match=r"^here: expected a Port, but number: expected at most 2, got 3$"):
        Port.parse({"number": 3}, source="here")
    with pytest.raises(ValidationError) as caught:
        Port(number=3)
    assert explain(caught.value) == "expected a Port, but number: expected at most 2, got 3"


def test_a_config_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        Outer().rate = 0.1


def test_a_document_spells_out_every_default_and_reads_back():
    assert Outer().document() == {"rate": 0.5, "inner": {"sizes": [1, 2]}}
    assert Outer.parse(json.loads(json.dumps(Outer().document())), source="here") == Outer()


def test_toml_and_json_give_the_same_config(tmp_path):
    (tmp_path / "a.toml").write_text("rate = 0.25\n[inner]\nsizes = [3]\n")
    (tmp_path / "a.json").write_text('{"rate": 0.25, "inner": {"sizes": [3]}}')
    assert (
        Outer.read(tmp_path / "a.toml") == Outer.read(tmp_path / "a.json") == Outer(rate=0.25, inner=Inner(sizes=(3,)))
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.toml", b"rate = ", "a.toml: expected valid TOML, but"),
        ("a.json", b"{", "a.json: expected valid JSON, but"),
        ("a.json", b"\xff", "a.json: expected valid JSON, but"),
        ("a.yaml", b"rate: 1", "a.yaml: expected a .toml or .json file, got '.yaml'"),
        ("a", b"", "a: expected a .toml or .json file, got 'no suffix'"),
    ],
)
def test_a_file_that_is_no_document_is_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_document(tmp_path / name)


def test_a_digest_changes_with_any_value_and_with_no_order():
    assert Outer().digest == Outer(rate=0.5).digest
    assert len({Outer().digest, Outer(rate=0.4).digest, Outer(inner=Inner(sizes=(2, 1))).digest}) == 3
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


@given(st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=3) | st.none(), max_size=4))
def test_a_digest_is_twelve_hexadecimal_digits(document):
    assert len(digest(document)) == 12
    int(digest(document), 16)


@pytest.mark.parametrize("text", ['{"seed": 1, "seed": 2}', '{"training": [{"epochs": 1, "epochs": 1}]}'])
def test_a_key_that_is_there_twice_is_refused_in_json_too(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"a\.json: expected valid JSON, but the key '(seed|epochs)' is there twice"):
        read_document(tmp_path / "a.json")
    with pytest.raises(ValueError, match=r"a\.json, line 1: .* is there twice"):
        list(read_lines(tmp_path / "a.json"))


@pytest.mark.parametrize(("name", "text"), [("a.json", '{"rate": 0.25}'), ("a.toml", "rate = 0.25\n")])
def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path, name, text):
    (tmp_path / name).write_text(text, encoding="utf-8-sig")
    assert Outer.read(tmp_path / name).rate == 0.25
    (tmp_path / name).write_text(text, encoding="utf-16")
    with pytest.raises(ValueError, match=f"{name}: expected valid"):
        Outer.read(tmp_path / name)


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000, '{"a": ' * 100_000, ""])
def test_json_that_is_too_deep_too_long_or_empty_is_refused_by_name(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=r"a\.json: expected valid JSON"):
        read_document(tmp_path / "a.json")


@pytest.mark.parametrize("line", [b"{", b"[1]", b"7", b"", b'{"a": "\xff"}', b"[" * 5000])
def test_a_line_that_is_no_table_is_named_by_its_number(tmp_path, line):
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b"\n")
    found = read_lines(path)
    assert next(found) == (f"{path}, line 1", {"a": 1})
    with pytest.raises(ValueError, match=rf"\A{path}, line 2: expected [^\n]+\Z"):
        next(found)


def test_a_key_that_a_line_lacks_is_an_error_that_names_it(tmp_path):
    (tmp_path / "lines.jsonl").write_text('{"a": 1}\n{"b": {}}\n')
    (_, first), (_, second) = read_lines(tmp_path / "lines.jsonl")
    for ask, number in ((lambda: first["c"], 1), (lambda: second["b"]["c"], 2)):
        with pytest.raises(ValueError, match=rf"line {number}: expected a key 'c'"):
            ask()


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "a.json").mkdir()
    with pytest.raises(ValueError, match=r"a\.json: expected a file, got a folder"):
        read_document(tmp_path / "a.json")


def test_a_key_that_a_file_lacks_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{"images": [{"train": {"count": 3}}]}')
    document = read_table(path)
    assert document == {"images": [{"train": {"count": 3}}]}
    with pytest.raises(ValueError, match=rf"{path}: expected a key 'digest', got count"):
        document["images"][0]["train"]["digest"]
    assert document.get("other") is None
    path.write_text("[3]")
    with pytest.raises(ValueError, match=r"expected a table of keys and values, got \[3\]"):
        read_table(path)


class Access(Config):
    token_file: str = ""
    key: int = 0
    rate: float = 1.0


@pytest.mark.parametrize(
    "values",
    [
        {"tokn": "S3CRET"},
        {"toekn_file": ["S3CRET"]},
        {"pass": "S3CRET"},
        {"apikey": "S3CRET"},
        {"tls": {"key": "S3CRET"}},
        {"token_file": ["S3CRET"]},
        {"key": "S3CRET"},
        {"tokens": 53253},
    ],
)
def test_a_secret_under_a_wrong_key_is_not_quoted(values):
    with pytest.raises(ValueError, match="here: expected a Access, but") as caught:
        Access.parse(values, source="here")
    assert "S3CRET" not in str(caught.value)
    assert "53253" not in str(caught.value)


def test_what_is_no_secret_is_quoted():
    with pytest.raises(ValueError, match="got 'fast'"):
        Access.parse({"rate": "fast"}, source="here")
