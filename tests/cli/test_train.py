from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from recbole_diffusion.cli.parsers import script_parser
from recbole_diffusion.cli.train import main
from recbole_diffusion.errors import UserError

FILE = Path(__file__).parents[2] / "run_recbole_diffusion.py"


class Calls(list[tuple[Any, ...]]):
    """Stands in for the run, and notes what it was asked for."""

    error: BaseException | None = None

    def __call__(self, *arguments: Any) -> Any:
        self.append(arguments)
        if self.error is not None:
            raise self.error
        return self

    def table(self) -> str:
        return "the table"


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    calls = Calls()
    monkeypatch.setattr("recbole_diffusion.training.run.train_and_test", calls)
    return calls


def run_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(FILE), *arguments], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("argv", "settings"),
    [
        (["--model=DiffuRec", "--dataset=toy"], {"model": "DiffuRec", "dataset": "toy"}),
        (["--model", "DiffuRec", "--dataset", "toy"], {"model": "DiffuRec", "dataset": "toy"}),
        (["-m", "DiffuRec", "-d", "toy"], {"model": "DiffuRec", "dataset": "toy"}),
        (["-m=DiffuRec"], {"model": "DiffuRec"}),
        (["--learning-rate=5e-4"], {"learning_rate": "5e-4"}),
        (["--weight_decay", "-1"], {"weight_decay": "-1"}),
        (["--eval_args={mode: uni100}"], {"eval_args": "{mode: uni100}"}),
        (["--note=a=b"], {"note": "a=b"}),
        (["--note="], {"note": ""}),
        (["--epochs=3", "--epochs", "3"], {"epochs": "3"}),
        (
            ["--nproc", "1", "--ip=x", "--port=1", "--world_size=-1", "--group_offset=2"],
            {"nproc": "1", "ip": "x", "port": "1", "world_size": "-1", "offset": "2"},
        ),
        (["--resume=a.pth", "--debug"], {"resume": "a.pth"}),
    ],
)
def test_arguments(argv: list[str], settings: dict[str, str]) -> None:
    assert script_parser().read(argv).settings == settings


def test_config_files(tmp_path: Path) -> None:
    (tmp_path / "with blank.yaml").write_text("epochs: 1\n")
    argv = ["--config_files=a.yaml b.yaml", "--config_files", "c.yaml", "--config-files=with blank.yaml"]
    assert script_parser().read(argv).config_files == ["a.yaml", "b.yaml", "c.yaml", "with blank.yaml"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["DiffuRec"], "DiffuRec: stands alone; settings are written --KEY=VALUE"),
        (["--epochs=3", "stray"], "stray: stands alone; settings are written --KEY=VALUE"),
        (["-model=DiffuRec"], "-model=DiffuRec: there is no such flag; settings are written --KEY=VALUE"),
        (["--=3"], "--=3: there is no such flag; settings are written --KEY=VALUE"),
        (["--epochs"], "--epochs must have a value, as in --epochs=VALUE"),
        (["--epochs", "--seed=3"], "--epochs must have a value, as in --epochs=VALUE"),
        (["-m", "-d", "toy"], "argument -m/--model: expected one argument; --help lists the flags"),
        (["--epochs=3", "--epochs=4"], "--epochs must be given once, got 3 and 4"),
        (["-m", "A", "--model=B"], "--model must be given once, got A and B"),
        (["--learning-rate=1", "--learning_rate=2"], "--learning_rate must be given once, got 1 and 2"),
        (["--debug=yes"], "argument --debug: ignored explicit argument 'yes'; --help lists the flags"),
    ],
)
def test_mistakes_on_the_command_line(
    argv: list[str], message: str, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError) as caught:
        script_parser().read(argv)
    assert str(caught.value) == message
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"error: {message}\n") and calls == []


def test_the_run_is_asked_for_and_its_table_printed(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", "SASRec", "--dataset=toy", "--epochs=3"]) == 0
    assert calls == [("SASRec", "toy", [], {"model": "SASRec", "dataset": "toy", "epochs": "3"})]
    assert capsys.readouterr() == ("the table\n", "")


def test_model_and_dataset_by_default_or_from_a_file(tmp_path: Path, calls: Calls) -> None:
    main([])
    for name, text in (("a.yaml", "model: SASRec\ndataset: a\n"), ("b.yaml", "dataset: b\n")):
        (tmp_path / name).write_text(text)
    main(["--config_files=a.yaml b.yaml"])
    main(["--config_files=a.yaml b.yaml", "-d", "c"])
    assert [call[:2] for call in calls] == [("DiffuRec", "ml-100k"), ("SASRec", "b"), ("SASRec", "c")]


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("x=1: less\n  would do"), 2, "error: x=1: less would do\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (ValueError("odd"), 1, "internal error: ValueError: odd; run again with --debug for the stack\n"),
    ],
)
def test_errors_take_one_line(
    error: BaseException, code: int, line: str, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    calls.error = error
    assert main([]) == code
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize(("error", "code"), [(UserError("x"), 2), (ValueError("x"), 1)])
def test_debug_shows_the_stack(
    error: BaseException, code: int, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    calls.error = error
    assert main(["--debug"]) == code
    err = capsys.readouterr().err
    assert err.startswith("Traceback") and err.splitlines()[-1].endswith("x")


def test_script_tells_a_mistake_in_one_line(tmp_path: Path) -> None:
    done = run_script("--model=DifuRec", "--nproc", "0")
    line = "error: model='DifuRec': there is no such model; did you mean DiffuRec?\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", line)
    assert list(tmp_path.iterdir()) == []


def test_nobody_reads_stdout() -> None:
    command = [sys.executable, str(FILE), "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert (process.stderr.read(), process.wait()) == (b"", 141)
