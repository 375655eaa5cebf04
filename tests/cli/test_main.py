from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from deepssm import __version__
from deepssm.cli import main as cli
from deepssm.cli.exit_codes import (
    CommandError,
    DataError,
    MissingExtraError,
    NumericalError,
    Outcome,
)
from deepssm.cli.failures import translated

COMMANDS = ("demo", "fit", "filter", "smooth", "forecast", "backtest", "report", "doctor")


def test_help_is_quick_and_imports_nothing_heavy() -> None:
    """Modules are counted, not seconds, which depend on the machine: 58 of them take 30 ms."""
    code = (
        "import sys\n"
        "before = len(sys.modules)\n"
        "from deepssm.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'pyro', 'arviz', 'matplotlib', 'numpy', 'pandas'} & set(sys.modules)\n"
        "print(sorted(heavy), len(sys.modules) - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *_, last = done.stdout.splitlines()
    heavy, loaded = last.rsplit(" ", 1)
    assert heavy == "[]" and int(loaded) < 100
    for command in COMMANDS:
        assert f"\n    {command} " in done.stdout


def test_module_and_version() -> None:
    command = [sys.executable, "-m", "deepssm", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"deepssm {__version__}"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["forecst", "x"], "Did you mean 'forecast'?"),
        (["xyz"], "there is no command 'xyz'. Commands: demo"),
        (["forecast", "x", "--horizon", "abc"], "--horizon: expected a whole number from 1, got"),
        (["forecast", "x", "--horizon", "0"], "expected a whole number from 1"),
        (["forecast", "x", "--levels", "1.5"], "expected a number between 0 and 1, got '1.5'"),
        (["forecast", "x", "--horizn", "3"], "Did you mean '--horizon'?"),
        (["fit", "x", "--model", "local-levl"], "Did you mean 'local-level'?"),
        (["fit", "x", "--period", "-3"], "expected a positive number"),
        (["fit"], "the following arguments are required: DATA.csv. See: deepssm fit --help"),
        (["report"], "RUN"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and not captured.out


def test_an_error_is_json_for_machines(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["forecst", "--json"]) == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out)["exit_code"] == 2


def _raise_linalg() -> None:
    import torch

    torch.linalg.cholesky(-torch.eye(2))


def _raise_missing() -> None:
    raise ModuleNotFoundError("No module named 'rich'", name="rich")


def _raise_value() -> None:
    raise ValueError("`y` must be a number")


def _raise_file() -> None:
    open("/nowhere/at/all")


def _raise_float() -> None:
    raise FloatingPointError("the loss became NaN")


@pytest.mark.parametrize(
    ("fail", "kind", "code", "message"),
    [
        (_raise_value, DataError, 3, "`y` must be a number"),
        (_raise_file, DataError, 3, "/nowhere/at/all: No such file"),
        (_raise_linalg, NumericalError, 4, "lost positive definiteness"),
        (_raise_float, NumericalError, 4, "the loss became NaN"),
        (_raise_missing, MissingExtraError, 5, "python -m pip install rich"),
    ],
)
def test_errors_of_the_library_have_exit_codes(
    fail: object, kind: type[CommandError], code: int, message: str
) -> None:
    with pytest.raises(kind, match=message), translated():
        fail()  # type: ignore[operator]
    assert kind.exit_code == code


def test_a_bug_is_not_dressed_up_as_a_failure() -> None:
    with pytest.raises(RuntimeError, match="a bug"), translated():
        raise RuntimeError("a bug")


def test_the_version_is_written_once() -> None:
    """Packaging, the package and the command line read the same file."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    assert "version" not in project["project"] and project["project"]["dynamic"] == ["version"]
    path = Path(__file__).parents[2] / project["tool"]["hatch"]["version"]["path"]
    assert f'__version__ = "{__version__}"' in path.read_text()


def test_doctor_tells_versions_and_devices(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert "device    cpu: float64, float32" in text and "package   torch " in text
    assert text.splitlines()[-1] == "Nothing written. Next: deepssm demo"
    assert cli.main(["doctor", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["devices"]["cpu"] == ["float64", "float32"]


def test_doctor_names_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from deepssm.cli.commands import doctor

    wanted = {"torch": ">=2.6", "filterpy": ">=99", "nosuchthing": ">=1,<2"}
    monkeypatch.setattr(doctor, "_requirements", lambda: (wanted, {}))
    assert cli.main(["doctor"]) == 5
    line = capsys.readouterr().err
    assert "python -m pip install 'filterpy>=99' 'nosuchthing>=1,<2'" in line


@pytest.mark.parametrize(
    ("version", "wanted", "fits"),
    [
        ("0.10.1", ">=0.10,<0.12", True),
        ("0.12.0", ">=0.10,<0.12", False),
        ("2.13.0+cpu", ">=2.6", True),
    ],
)
def test_version_ranges(version: str, wanted: str, fits: bool) -> None:
    from deepssm.cli.commands.doctor import _fits

    assert _fits(version, wanted) is fits


def test_the_last_line_names_file_and_next_command() -> None:
    assert Outcome("", {}, None, "deepssm demo").last_line == "Nothing written. Next: deepssm demo"
