from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from recbole_diffusion.errors import SettingError, UserError
from recbole_diffusion.host.parsing import Declaration, declarations, parse, read_yaml

PROPERTIES = """\
learning_rate: 0.001            # (float) Step of the optimizer.
epochs: 300                     # (int) Rounds.
steps: ~                        # (int or ~) Steps.
folder: log                     # (str or ~) Where to.
use_gpu: True                   # (bool) Whether to.
topk: [10]                      # (list or int) Cut-offs.
dropouts: [0.1, 1]              # (list of float) Two.
interval: ~                     # (dict) Field: interval.
resolution: 1                   # (float) Written as a whole number.
candidates: 100                 # (str) Numbers, separated by commas.
free: ~
"""


@pytest.fixture
def declared(tmp_path: Path) -> dict[str, Declaration]:
    file = tmp_path / "properties.yaml"
    file.write_text(PROPERTIES)
    return declarations({file: read_yaml(file)}, {"nproc": 1})


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
    ("key", "given", "value"),
    [
        ("learning_rate", "5e-4", 5e-4),
        ("learning_rate", 1, 1.0),
        ("learning_rate", np.float32(0.5), 0.5),
        ("epochs", "1e1", 10),
        ("epochs", 10.0, 10),
        ("epochs", np.int64(3), 3),
        ("steps", "none", None),
        ("steps", "None", None),
        ("steps", "~", None),
        ("steps", "4", 4),
        ("folder", "no", "no"),
        ("folder", "None", None),
        ("folder", Path("a/b"), str(Path("a/b"))),
        ("folder", "5", "5"),
        ("use_gpu", "no", False),
        ("use_gpu", "on", True),
        ("use_gpu", "FALSE", False),
        ("use_gpu", 1, True),
        ("topk", "5,10", [5, 10]),
        ("topk", "[5,10]", [5, 10]),
        ("topk", "(5, 10)", [5, 10]),
        ("topk", "5", [5]),
        ("topk", (5, 10), [5, 10]),
        ("topk", 5, [5]),
        ("dropouts", "0,0.5", [0.0, 0.5]),
        ("interval", "{rating: '[3,inf)'}", {"rating": "[3,inf)"}),
        ("interval", "{'rating': '[3,inf)'}", {"rating": "[3,inf)"}),
        ("resolution", "0.5", 0.5),
        ("candidates", "500,100,20", "500,100,20"),
        ("candidates", "50", 50),
        ("nproc", "2", 2),
        ("free", "1e-3", 0.001),
        ("free", "None", None),
    ],
)
def test_values_take_the_declared_type(declared: dict[str, Declaration], key: str, given: Any, value: Any) -> None:
    typed = declared[key].typed(key, given)
    assert typed == value and type(typed) is type(value)


@pytest.mark.parametrize(
    ("key", "given", "message"),
    [
        ("epochs", "ten", "epochs='ten': a whole number is wanted"),
        ("epochs", "2.5", "epochs='2.5': a whole number is wanted"),
        ("epochs", True, "epochs=True: a whole number is wanted"),
        ("epochs", None, "epochs=None: a whole number is wanted"),
        ("epochs", "", "epochs='': a whole number is wanted"),
        ("epochs", "1/0", "epochs='1/0': a whole number is wanted"),
        ("steps", "ten", "steps='ten': a whole number is wanted"),
        ("learning_rate", "fast", "learning_rate='fast': a number is wanted"),
        ("learning_rate", ".nan", "learning_rate='.nan': a number is wanted"),
        ("learning_rate", ".inf", "learning_rate='.inf': a number is wanted"),
        ("use_gpu", "perhaps", "use_gpu='perhaps': True or False is wanted"),
        ("use_gpu", 2, "use_gpu=2: True or False is wanted"),
        ("folder", ["a"], "folder=['a']: a text is wanted"),
        ("folder", True, "folder=True: a text is wanted"),
        ("topk", "[5, 10", "topk='[5, 10': a list is wanted, such as [a, b]"),
        ("topk", "{a: 1}", "topk='{a: 1}': a list is wanted, such as [a, b]"),
        ("topk", "5,ten", "topk=[5, 'ten']: in every place a whole number is wanted"),
        ("interval", "5", "interval='5': a mapping is wanted, such as {key: value}, with a space after the colon"),
        (
            "interval",
            "{rating:3}",
            "interval='{rating:3}': a mapping is wanted, such as {key: value}, with a space after the colon",
        ),
    ],
)
def test_values_of_another_type_are_refused(
    declared: dict[str, Declaration], key: str, given: Any, message: str
) -> None:
    with pytest.raises(SettingError) as caught:
        declared[key].typed(key, given)
    assert str(caught.value) == message


def test_containers_are_copied(declared: dict[str, Declaration]) -> None:
    mine: dict[str, Any] = {"a": {"b": [1]}}
    for key in ("interval", "free"):
        typed = declared[key].typed(key, mine)
        typed["a"]["b"].append(2)
    assert mine == {"a": {"b": [1]}}


def test_a_type_is_kept_where_a_stronger_file_says_none(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text('interval: "[0,inf)"\n')
    second.write_text("interval: ~\n")
    declared = declarations({file: read_yaml(file) for file in (first, second)}, {})
    assert declared["interval"].typed("interval", "[5,10]") == "[5,10]"
    assert declared["interval"].typed("interval", None) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "mine.yaml: cannot be read: No such file or directory"),
        ("", "mine.yaml: holds no settings"),
        ("# nothing\n", "mine.yaml: holds no settings"),
        ("- a\n- b\n", "mine.yaml: a mapping is wanted, one 'key: value' a line"),
        ("epochs=3\n", "mine.yaml: a mapping is wanted, one 'key: value' a line"),
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


def test_own_property_files_declare_what_they_hold() -> None:
    from recbole_diffusion.host.registry import PROPERTIES

    for file in PROPERTIES.rglob("*.yaml"):
        content = read_yaml(file, may_be_empty=True)
        declared = declarations({file: content}, {})
        assert yaml.safe_load(file.read_text(encoding="utf-8")) is None or set(declared) == set(content)
        for key, value in content.items():
            assert declared[key].kinds, f"{file.name}: {key} has no type"
            assert declared[key].typed(key, value) == value
