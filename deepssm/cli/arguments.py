"""The words of the command line: options, their defaults and checks. Imports nothing heavy."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from .._version import __version__
from .exit_codes import Outcome, UsageError, did_you_mean

if TYPE_CHECKING:
    # What `add_subparsers` returns; the class has no public name.
    _Sub = argparse._SubParsersAction["_Parser"]

MODELS = ("local-level", "local-linear-trend", "structural", "constant-velocity", "deep-kalman")

_EPILOG = """\
first steps:
  deepssm demo                                             the whole story, on CO2 observations
  deepssm fit data.csv --time date --y level --out runs/a  learn a model from your own table
  deepssm forecast runs/a --horizon 24 -o fc.csv           what comes next, with bands

exit codes: 0 done, 2 wrong usage, 3 unusable data, 4 numerical failure, 5 missing package
-o - writes a table to standard output
"""


class _Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line and end in exit code 2."""

    def error(self, message: str) -> NoReturn:
        stop = "" if message.endswith(("?", ".")) else "."
        raise UsageError(f"{message}{stop} See: {self.prog} --help")


def build_parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Return the parser of `deepssm` and those of its commands, by name."""
    parser = _Parser(
        prog="deepssm",
        description="Fit, filter, smooth and forecast time series with state space models, "
        "classical and deep.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"deepssm {__version__}")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True, title="commands")
    commands: dict[str, argparse.ArgumentParser] = {}
    for add in (_demo, _fit, _filter, _smooth, _forecast, _backtest, _report_page, _doctor):
        command = add(subparsers)
        command.add_argument("--json", action="store_true", help="print results as JSON")
        commands[command.prog.split()[-1]] = command
    return parser, commands


def _demo(sub: _Sub) -> argparse.ArgumentParser:
    command = sub.add_parser(
        "demo",
        help="the whole story on embedded CO2 observations, in about a minute",
        description="Hold out the last 104 weeks of the Mauna Loa CO2 record, fit a structural "
        "model and a deep Kalman filter to the rest, forecast, score, write a report.",
        allow_abbrev=False,
    )
    command.add_argument("--out", type=Path, default=Path("runs/demo"), help="run folder to write")
    _seed(command)
    command.set_defaults(run=_run_demo)
    return command


def _fit(sub: _Sub) -> argparse.ArgumentParser:
    command = sub.add_parser(
        "fit",
        help="learn a model from a CSV table, write a run folder",
        description="Learn a model from a CSV table. Empty cells are missing values.",
        allow_abbrev=False,
    )
    command.add_argument(
        "data",
        type=Path,
        metavar="DATA.csv",
        help="a table with a header line: text (also .gz), Parquet, Feather; - reads a pipe",
    )
    _columns(command)
    _cells(command)
    command.add_argument(
        "--model",
        type=_one_of(MODELS),
        default="local-linear-trend",
        metavar="MODEL",
        help=f"{', '.join(MODELS)} (default: %(default)s)",
    )
    command.add_argument(
        "--period",
        type=_periods,
        metavar="P[,P2]",
        help="rows in a season (structural, deep-kalman); 24,168 for two (structural)",
    )
    command.add_argument("--harmonics", type=_count, help="waves in a season (default: 4)")
    command.add_argument("--ar", type=_count, help="order of autoregressive noise (structural)")
    command.add_argument("--state-dim", type=_count, help="size of the state (deep-kalman)")
    command.add_argument("--hidden", type=_count, help="width of the networks (deep-kalman)")
    command.add_argument("--steps", type=_count, help="training steps (deep-kalman)")
    command.add_argument(
        "--holdout", type=_count, default=0, help="last rows kept out of learning and scored"
    )
    command.add_argument(
        "--resample", metavar="RULE", help="lay rows on a grid: 7D, B (working days), MS, 0.5 ..."
    )
    command.add_argument("--out", type=Path, default=Path("runs/fit"), help="run folder to write")
    command.add_argument("--overwrite", action="store_true", help="replace the run folder")
    command.add_argument(
        "--resume", action="store_true", help="go on where Ctrl-C stopped (deep-kalman)"
    )
    _seed(command)
    command.set_defaults(run=_run_fit)
    return command


def _filter(sub: _Sub) -> argparse.ArgumentParser:
    command = sub.add_parser(
        "filter", help="states given the observations so far", allow_abbrev=False
    )
    _run_and_table(command, Path("filtered.csv"))
    command.set_defaults(run=_run_filter)
    return command


def _smooth(sub: _Sub) -> argparse.ArgumentParser:
    command = sub.add_parser(
        "smooth", help="states given all observations; fills gaps", allow_abbrev=False
    )
    _run_and_table(command, Path("smoothed.csv"))
    command.set_defaults(run=_run_smooth)
    return command


def _forecast(sub: _Sub) -> argparse.ArgumentParser:
    command = sub.add_parser("forecast", help="what comes next, with bands", allow_abbrev=False)
    _run_and_table(command, Path("forecast.csv"))
    command.add_argument("--horizon", type=_count, default=24, help="steps ahead (default: 24)")
    command.add_argument(
        "--levels", type=_level, nargs="+", default=[0.5, 0.8, 0.95], help="bands, such as .5 .95"
    )
    command.add_argument("--u-future", type=Path, help="CSV with the inputs of the steps ahead")
    command.add_argument("--samples", type=_count, help="draws (models without exact moments)")
    _seed(command)
    command.set_defaults(run=_run_forecast)
    return command


def _backtest(sub: _Sub) -> argparse.ArgumentParser:
    command = sub.add_parser(
        "backtest", help="score forecasts from many past days", allow_abbrev=False
    )
    _run_argument(command)
    command.add_argument("--horizon", type=_count, default=24, help="steps ahead (default: 24)")
    command.add_argument("--start", type=_level, default=0.6, help="first origin, share of rows")
    command.add_argument("--stride", type=_count, help="rows between origins (default: horizon)")
    command.add_argument("--refit", action="store_true", help="learn again at each origin")
    command.add_argument("-o", "--out", type=Path, default=Path("backtest.csv"))
    _seed(command)
    command.set_defaults(run=_run_backtest)
    return command


def _report_page(sub: _Sub) -> argparse.ArgumentParser:
    command = sub.add_parser("report", help="write report.html again", allow_abbrev=False)
    _run_argument(command)
    command.add_argument("-o", "--out", type=Path, help="default: report.html in the run folder")
    command.add_argument(
        "--frames", type=_size, metavar="HxW", help="columns are pixels, row by row: show images"
    )
    command.set_defaults(run=_run_report)
    return command


def _doctor(sub: _Sub) -> argparse.ArgumentParser:
    command = sub.add_parser(
        "doctor", help="versions, devices, number types, optional packages", allow_abbrev=False
    )
    command.set_defaults(run=_run_doctor)
    return command


def _columns(command: argparse.ArgumentParser) -> None:
    command.add_argument("--time", metavar="COLUMN", help="time column (default: row number)")
    command.add_argument(
        "--y", metavar="A,B", type=_names, help="observed columns (default: every other column)"
    )
    command.add_argument("--u", metavar="C,D", type=_names, default=[], help="input columns")


def _cells(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--id", metavar="C=NAME", dest="series", help="take one series: rows where C is NAME"
    )
    command.add_argument("--sep", metavar="S", help="separator: ; tab space ... (default: found)")
    command.add_argument("--decimal", metavar="S", help="decimal mark: . or , (default: found)")
    command.add_argument("--thousands", metavar="S", help="mark between thousands")
    command.add_argument(
        "--missing", metavar="A,B", type=_names, default=[], help="further marks of missing cells"
    )
    command.add_argument("--percent", action="store_true", help="read cells such as 12 %%")
    command.add_argument(
        "--fill-inputs",
        dest="fill",
        type=_one_of(("last", "linear", "zero")),
        metavar="HOW",
        help="fill gaps of inputs: last, linear or zero",
    )


def _run_argument(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", type=Path, metavar="RUN", help="a run folder, such as runs/a")
    command.add_argument("--which", metavar="NAME", help="the model, where a run holds several")


def _run_and_table(command: argparse.ArgumentParser, out: Path) -> None:
    _run_argument(command)
    command.add_argument(
        "data", type=Path, nargs="?", metavar="NEW.csv", help="another table than the run's own"
    )
    command.add_argument("-o", "--out", type=Path, default=out, help=f"default: {out}")


def _seed(command: argparse.ArgumentParser) -> None:
    command.add_argument("--seed", type=int, default=0, help="of all randomness (default: 0)")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _one_of(known: Sequence[str]) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text not in known:
            hint = did_you_mean(text, list(known))
            raise argparse.ArgumentTypeError(f"'{text}' is not one of {', '.join(known)}.{hint}")
        return text

    return check


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got '{text}'")
    return int(text)


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    return _count(height), _count(width)


def _positive(text: str) -> float:
    value = _number(text)
    if not 0.0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number, got '{text}'")
    return value


def _periods(text: str) -> list[float]:
    periods = sorted(_positive(part) for part in text.split(","))
    if len(periods) > 2:
        raise argparse.ArgumentTypeError(f"expected one or two seasons, got '{text}'")
    return periods


def _level(text: str) -> float:
    value = _number(text)
    if not 0.0 < value < 1.0:
        raise argparse.ArgumentTypeError(f"expected a number between 0 and 1, got '{text}'")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number, got '{text}'") from None


def _run_demo(args: argparse.Namespace) -> Outcome:
    from .commands.demo import run

    return run(args)


def _run_fit(args: argparse.Namespace) -> Outcome:
    from .commands.fit import run

    return run(args)


def _run_filter(args: argparse.Namespace) -> Outcome:
    from .commands.filter import run

    return run(args)


def _run_smooth(args: argparse.Namespace) -> Outcome:
    from .commands.smooth import run

    return run(args)


def _run_forecast(args: argparse.Namespace) -> Outcome:
    from .commands.forecast import run

    return run(args)


def _run_backtest(args: argparse.Namespace) -> Outcome:
    from .commands.backtest import run

    return run(args)


def _run_report(args: argparse.Namespace) -> Outcome:
    from .commands.report import run

    return run(args)


def _run_doctor(args: argparse.Namespace) -> Outcome:
    from .commands.doctor import run

    return run(args)
