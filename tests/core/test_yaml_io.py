"""YAML from a stranger: plain values, one line per mistake, nothing that runs or explodes."""

from pathlib import Path

import pytest
import yaml

from ssod.utils.errors import Exit, SsodError
from ssod.utils.yaml_io import dump_yaml, parse_yaml, read_yaml


def refused(text: str) -> SsodError:
    with pytest.raises(SsodError) as caught:
        parse_yaml(text, "f.yaml")
    line = caught.value.line()
    assert "\n" not in line
    assert line.startswith("f.yaml")
    return caught.value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1.5E+2", 150.0),
        ("-1e5", -100000.0),
        (".5", 0.5),
        ("1_000", 1000),
        ("0x1F", 31),
        ("0o17", 15),
        ("true", True),
        ("~", None),
        ("", None),
        ("[1, a]", [1, "a"]),
    ],
)
def test_numbers_and_words(text: str, value: object) -> None:
    found = parse_yaml(text, "f.yaml")
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize("word", ["no", "on", "Yes", "OFF", "2024-13-45", "12:30", "1e5x", "=", "<<", "1.2.3"])
def test_what_yaml_1_1_would_turn_into_something_else_stays_text(word: str) -> None:
    assert parse_yaml(word, "f.yaml") == word


def test_a_leading_zero_is_no_octal() -> None:
    assert parse_yaml("[010, 09]", "f.yaml") == [10, 9]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: !!python/object/apply:os.system ['touch canary']", "tag"),
        ("a: !!python/name:os.system ''", "tag"),
        ("a:\n  b: !thing 1", "line 2"),
        ("a: !!binary aGk=", "tag"),
        ("a: !!set {x, y}", "tag"),
        ("a: &a [*a]", "contains itself"),
        ("[" * 5000, "nested too deeply"),
    ],
)
def test_anything_but_plain_values_is_unsafe(text: str, says: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    error = refused(text)
    assert error.code == Exit.UNSAFE
    assert says in error.line()
    assert not list(tmp_path.iterdir())


def test_an_alias_bomb_is_counted_before_it_is_built() -> None:
    lists = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    lists += [f"{c}: &{c} [{', '.join([f'*{p}'] * 9)}]" for p, c in zip("abcdefgh", "bcdefghi")]
    error = refused("\n".join(lists))
    assert error.code == Exit.UNSAFE
    assert "10000 values after aliases" in error.line()


def test_a_few_aliases_are_welcome() -> None:
    assert parse_yaml("a: &x {b: 1}\nc: *x", "f.yaml") == {"a": {"b": 1}, "c": {"b": 1}}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: 1\nb: 2\na: 3", "line 3: duplicate key 'a'"),
        ("a: {b: 1, b: 2}", "duplicate key 'b'"),
        ("a:\n\tb: 1", "line 2"),
        ("1: x", "key 1 is not text; quote it"),
        ("~: x", "key None is not text; quote it"),
        ("[1, 2]: x", "is not text"),
        ("true: x", "key True is not text"),
        ("a: [1", "not valid YAML"),
        ("a: *b", "undefined alias"),
        ("a: 1\n---\nb: 2", "another document"),
        ("a: " + "9" * 5000, "too long"),
        ("a: !!int x", "no integer"),
        ("a: !!bool maybe", "neither true nor false"),
        ("a: !!float x", "no number"),
        ("a: !!str [1]", "single value"),
        ("a: !!map [1]", "expected a mapping"),
        ("a: !!seq {b: 1}", "expected a list"),
        ("a: \x01", "not valid YAML"),
    ],
)
def test_a_mistake_is_one_line_with_code_2(text: str, says: str) -> None:
    error = refused(text)
    assert error.code == Exit.USAGE
    assert says in error.line()


def test_files(tmp_path: Path) -> None:
    (tmp_path / "right.yaml").write_text("a: 1")
    assert read_yaml(tmp_path / "right.yaml") == {"a": 1}
    with pytest.raises(SsodError, match=r"did you mean .right\.yaml."):
        read_yaml(tmp_path / "rihgt.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"a: \xe9")
    with pytest.raises(SsodError, match="UTF-8"):
        read_yaml(tmp_path / "latin.yaml")
    with pytest.raises(SsodError, match="cannot be read"):
        read_yaml(tmp_path)


WORDS = "08 09 010 0o17 0x1F 1e3 1.5E+2 -1e5 .5 5. 1_000 .inf .nan true null ~ no on y 2024-01-01 12:30 cat - # a:b"


ODD = ["é: #", "猫 ", "\u2028", "\x85", "a\x85b", "é\u2029b", "\ufeff", "\x00", "\n é", "🚗"]


def test_what_is_written_is_read_back() -> None:
    """Text that looks like a number in either version of YAML stays text, and numbers stay numbers."""
    values = [*WORDS.split(), "", " a", "a b", "é", *ODD, 8, 1e-5, 1e300, -0.5, True, None, [], {"08": {"b": [1]}}]
    tree = {"values": values}
    assert parse_yaml(dump_yaml(tree), "f.yaml") == tree
    assert parse_yaml(dump_yaml(tree, default_flow_style=True, width=10_000), "f.yaml") == tree
    assert yaml.safe_load(dump_yaml(tree)) == tree, "other readers agree"
    assert dump_yaml({"a": "cat", "b": 1}) == "a: cat\nb: 1\n"
    assert dump_yaml({"a": "Jérôme 猫"}) == "a: Jérôme 猫\n", "letters stay letters"
