from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from deepssm.cli.run_folder import RunFolder, finite, new_run
from deepssm.cli.toml import to_toml
from deepssm.io.atomic import replacing, write_text


def test_toml_text_comes_back_as_it_was() -> None:
    table = {
        "text": 'quotes " and \\ and\nlines, é, 🛰, \x7f \x01',
        "whole": -3,
        "real": 1e-300,
        "huge": float("inf"),
        "yes": True,
        "list": ["a", "b,c"],
        "empty": [],
        "odd key.": {"inner": {"x": [1.5, 2.0]}, "y": ""},
        "bare": {},
    }
    assert tomllib.loads(to_toml(table)) == table
    assert tomllib.loads(to_toml({"gone": None, "kept": 1})) == {"kept": 1}


def test_toml_text_refuses_what_toml_has_not() -> None:
    with pytest.raises(ValueError, match="no place for a object"):
        to_toml({"x": object()})


def test_a_failed_block_leaves_neither_file_nor_folder(tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("old")
    with pytest.raises(RuntimeError, match="midway"), replacing(tmp_path / "kept.txt") as file:
        file.write_text("half")
        raise RuntimeError("midway")
    with pytest.raises(RuntimeError, match="midway"), new_run(tmp_path / "run") as (folder, _):
        folder.write_config({})
        raise RuntimeError("midway")
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]
    assert (tmp_path / "kept.txt").read_text() == "old"


def test_an_older_run_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    """What else lies in its folder is kept in any case, and no other folder is replaced."""
    with new_run(tmp_path / "run") as (folder, _):
        folder.write_config({"seed": 1})
    write_text(tmp_path / "run" / "thesis" / "data.csv", "mine")
    with pytest.raises(FileExistsError, match="--overwrite"), new_run(tmp_path / "run"):
        pass
    with new_run(tmp_path / "run", overwrite=True) as (folder, _):
        folder.write_config({"seed": 2})
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "config.toml",
        "log.txt",
        "thesis",
    }
    assert "seed = 2" in (tmp_path / "run" / "config.toml").read_text()
    assert (tmp_path / "run" / "thesis" / "data.csv").read_text() == "mine"
    write_text(tmp_path / "other" / "config.toml", "[tool]\n")
    write_text(tmp_path / "file", "mine")
    for name, message in (("other", "is no run folder"), ("file", "it is a file")):
        with (
            pytest.raises(FileExistsError, match=message),
            new_run(tmp_path / name, overwrite=True),
        ):
            pass
    assert {path.name for path in tmp_path.iterdir()} == {"run", "other", "file"}


CONFIG = {
    "seed": 3,
    "holdout": 0,
    "command": "deepssm fit",
    "data": {
        "source": "a.csv", "title": "a", "rows": 9, "missing": 0, "step": "", "usual": 1.0,
        "unit": 1.0,
    },
    "seconds": 1.0,
    "device": "cpu",
    "versions": {"python": "3"},
    "models": {
        "a": {
            "kind": "local-level", "y": ["x"], "u": [], "period": 0.0, "harmonics": 0, "ar": 0,
            "state_dim": 0, "hidden": 0, "steps": 0,
        }
    },
    "learning": {"a": {"objective": -1.0, "diagnostics": {}, "warnings": []}},
}  # fmt: skip


def test_config_and_metrics_come_back(tmp_path: Path) -> None:
    with new_run(tmp_path / "run") as (folder, log):
        folder.write_config(CONFIG)
        folder.write_metrics([{"step": 1, "loss": float("nan")}, {"step": 2, "loss": 0.5}])
        log.say("hello \x1b[31m")
    run = RunFolder(tmp_path / "run")
    assert run.read_config()["models"]["a"]["kind"] == "local-level"
    assert run.read_metrics() == [{"step": 1, "loss": None}, {"step": 2, "loss": 0.5}]
    assert "hello \\x1b[31m" in run.log_file.read_text()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is not a run folder"):
        RunFolder(tmp_path).read_config()
    (tmp_path / "config.toml").write_text("format = [")
    with pytest.raises(ValueError, match="is damaged"):
        RunFolder(tmp_path).read_config()
    (tmp_path / "config.toml").write_text("format = 99")
    with pytest.raises(ValueError, match="has format 99"):
        RunFolder(tmp_path).read_config()


def test_json_has_no_infinite_numbers() -> None:
    assert finite({"a": [1.0, float("inf")], "b": (float("nan"), "x")}) == {
        "a": [1.0, None],
        "b": [None, "x"],
    }
