from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recbole_diffusion.errors import SettingError, UserError
from recbole_diffusion.host.parsing import kind_of, parse, read_yaml, typed


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1.5", 1.5),
        (".5", 0.5),
        ("-2E3", -2000.0),
        ("12", 12),
        ("1_000", 1000),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("", None),
        # Yaml 1.1 would make a boolean, an octal number, a number of base 60 and a date of these.
        ("no", "no"),
        ("on", "on"),
        ("010", "010"),
        ("1:30", "1:30"),
        ("2020-01-01", "2020-01-01"),
        ("[5, 10]", [5, 10]),
        ("[5,10]", [5, 10]),
        ("{'RS':[0.8,0.1,0.1]}", {"RS": [0.8, 0.1, 0.1]}),
        ("{a: {b: 1}}", {"a": {"b": 1}}),
        # No yaml: a text.
        ("[5,inf)", "[5,inf)"),
        ("@x", "@x"),
        ("!!python/object/apply:os.getcwd []", "!!python/object/apply:os.getcwd []"),
        ("__import__('os').getcwd()", "__import__('os').getcwd()"),
        ("1/0", "1/0"),
    ],
)
def test_scalars(text: str, value: Any) -> None:
    assert parse(text) == value and type(parse(text)) is type(value)


@pytest.mark.parametrize(
    ("kind", "value", "read"),
    [
        ("list of int", np.array([5, 10]), [5, 10]),
        ("list of int", (np.int64(5), 10), [5, 10]),
        ("list of str", [np.str_("NDCG")], ["NDCG"]),
        ("dict", {"RS": (np.float32(0.5), 0.25, 0.25)}, {"RS": [0.5, 0.25, 0.25]}),
        ("dict", {"GTS": np.array([0.75, 0.875])}, {"GTS": [0.75, 0.875]}),
    ],
)
def test_lists_and_mappings_may_be_of_numpy_and_tuples(kind: str, value: Any, read: Any) -> None:
    assert repr(typed("key", value, kind)) == repr(read)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_float_that_python_writes_is_read(number: float) -> None:
    assert parse(repr(number)) == number


@given(st.text())
def test_any_text_is_read_as_something(text: str) -> None:
    parse(text)


def test_yamls_own_loaders_are_left_alone() -> None:
    # In a process of its own, as RecBole changes FullLoader for everybody.
    code = (
        "import yaml, recbole_diffusion.host.parsing; print(repr(yaml.full_load('1e-3')), repr(yaml.safe_load('no')))"
    )
    folder = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout == "'1e-3' False\n"


@pytest.mark.parametrize(
    ("kind", "given", "value"),
    [
        ("float", "5e-4", 5e-4),
        ("float", 1, 1.0),
        ("float", np.float32(0.5), 0.5),
        ("int", "1e1", 10),
        ("int", 10.0, 10),
        ("int", np.int64(3), 3),
        ("int or ~", "none", None),
        ("int or ~", "None", None),
        ("int or ~", "~", None),
        ("int or ~", "4", 4),
        ("str or ~", "no", "no"),
        ("str or ~", "None", None),
        ("str or ~", Path("a/b"), str(Path("a/b"))),
        ("str or ~", "5", "5"),
        ("path", Path("a/b"), str(Path("a/b"))),
        ("path", "~/a", str(Path.home() / "a")),
        ("path or ~", "~", None),
        ("bool", "no", False),
        ("bool", "on", True),
        ("bool", "FALSE", False),
        ("bool", 1, True),
        ("list of int", "5,10", [5, 10]),
        ("list of int", "[5,10]", [5, 10]),
        ("list of int", "(5, 10)", [5, 10]),
        ("list of int", "5", [5]),
        ("list of int", (5, 10), [5, 10]),
        ("list of int", 5, [5]),
        ("list of float", "0,0.5", [0.0, 0.5]),
        ("list of str", "user_id,5", ["user_id", "5"]),
        ("list", "a, 5", ["a", 5]),
        ("dict", "{rating: '[3,inf)'}", {"rating": "[3,inf)"}),
        ("dict", "{'rating': '[3,inf)'}", {"rating": "[3,inf)"}),
        ("int or str", "500,100,20", "500,100,20"),
        ("int or str", "50", 50),
        ("str or list", "linear", "linear"),
        ("str or list", "[0.1, 0.2]", [0.1, 0.2]),
        ("str or list", (0.1, 0.2), [0.1, 0.2]),
        ("float or list of float", "1", 1.0),
        ("float or list of float", "1,2", [1.0, 2.0]),
        ("any or ~", "1e-3", 0.001),
        ("any or ~", "None", None),
    ],
)
def test_values_take_the_type_of_their_setting(kind: str, given: Any, value: Any) -> None:
    read = typed("key", given, kind)
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        ("int", "ten", "key must be a whole number, got 'ten'"),
        ("int", "2.5", "key must be a whole number, got '2.5'"),
        ("int", True, "key must be a whole number, got True"),
        ("int", None, "key must be a whole number, got None"),
        ("int", "", "key must be a whole number, got ''"),
        ("int", "1/0", "key must be a whole number, got '1/0'"),
        ("int or ~", "ten", "key must be a whole number or ~, got 'ten'"),
        ("float", "fast", "key must be a number, got 'fast'"),
        ("float", ".nan", "key must be a number, got '.nan'"),
        ("float", ".inf", "key must be a number, got '.inf'"),
        ("bool", "maybe", "key must be True or False, got 'maybe'"),
        ("bool", 2, "key must be True or False, got 2"),
        ("str", ["a"], "key must be a text, got ['a']"),
        ("path", True, "key must be a path, got True"),
        ("list", "[5, 10", "key must be a list such as [a, b], got '[5, 10'"),
        ("list", "{a: 1}", "key must be a list such as [a, b], got '{a: 1}'"),
        ("list of int", "5,ten", "key must be a list of whole numbers such as [1, 2], got '5,ten'"),
        ("str or list", {"a": 1}, "key must be a text or a list such as [a, b], got {'a': 1}"),
        ("dict", "5", "key must be a mapping such as {key: value}, with a space after the colon, got '5'"),
        ("dict", "{a:3}", "key must be a mapping such as {key: value}, with a space after the colon, got '{a:3}'"),
    ],
)
def test_values_of_another_type_are_refused(kind: str, given: Any, message: str) -> None:
    with pytest.raises(SettingError) as caught:
        typed("key", given, kind)
    assert str(caught.value) == message


@pytest.mark.parametrize("kind", ["dict", "any or ~"])
def test_containers_are_copied(kind: str) -> None:
    mine: dict[str, Any] = {"a": {"b": [1]}}
    typed("key", mine, kind)["a"]["b"].append(2)
    assert mine == {"a": {"b": [1]}}


@pytest.mark.parametrize(
    ("defaults", "kind"),
    [
        ([1], "int"),
        ([1, 0.5], "float"),
        (["a"], "str"),
        ([True], "bool"),
        (["[0,inf)", None], "str or ~"),
        ([None], "any or ~"),
        ([[1, 2]], "list of int"),
        ([[1, 0.5]], "list of float"),
        ([["a", 1]], "list"),
        ([[]], "list"),
        ([{"a": 1}, None], "dict or ~"),
        (["linear", [0.1]], "str or list of float"),
    ],
)
def test_type_of_defaults(defaults: list[Any], kind: str) -> None:
    assert kind_of(defaults) == kind


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "mine.yaml: cannot be read: No such file or directory"),
        ("", "mine.yaml: holds no settings"),
        ("# nothing\n", "mine.yaml: holds no settings"),
        ("- a\n- b\n", "mine.yaml: must be a mapping, one 'key: value' a line"),
        ("epochs=3\n", "mine.yaml: must be a mapping, one 'key: value' a line"),
        ("1: a\n", "mine.yaml: 1 is no name of a setting"),
        ("a: 1\nb: [1, 2\nc: 3\n", "mine.yaml, line 3: is no valid yaml: expected ',' or ']', but got ':'"),
        ("a: 1\n\tb: 2\n", "mine.yaml, line 2: is no valid yaml: found character '\\t' that cannot start any token"),
        ("a: !!python/name:os.getcwd x\n", "mine.yaml, line 1: is no valid yaml: could not determine a constructor"),
        ("a: \xff", "mine.yaml: is no valid yaml: 'utf-8' codec can't decode byte 0xff"),
    ],
)
def test_yaml_files_that_cannot_be_used(tmp_path: Path, text: str | None, message: str) -> None:
    if text is not None:
        (tmp_path / "mine.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError) as caught:
        read_yaml("mine.yaml")
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_yaml_file_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes("\ufeffepochs: 3\n".encode())
    assert read_yaml("mine.yaml") == {"epochs": 3}


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("epochs: 3\neval_args: {mode: full}\nepochs: 5\n")
    with pytest.raises(UserError, match=r"a\.yaml, line 3: is no valid yaml: it has epochs twice"):
        read_yaml(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text("base: &base {a: 1}\nmine:\n  <<: *base\n  a: 2\n")
    assert read_yaml(tmp_path / "a.yaml")["mine"] == {"a": 2}
