"""`deepssm`: the command line. Imports nothing heavy, so that `deepssm --help` answers at once."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Sequence

from ..io.terminal import say, shortened
from .arguments import build_parser
from .exit_codes import CommandError, Outcome, StoppedError, UsageError, did_you_mean
from .stopping import Stopping, stoppable


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: Words after `deepssm`; those of the process if `None`.

    Returns:
        0 done, 2 wrong usage, 3 unusable data, 4 numerical failure, 5 missing package, 128 and
        the signal's number where one stopped it.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    stopping = Stopping()
    try:
        with stoppable(stopping):
            return _answer(words, stopping)
    except KeyboardInterrupt:
        # At any moment: also while signals are being set up, or the result is being shown.
        say("deepssm: stopped.", sys.stderr)
        return stopping.exit_code


def _answer(words: list[str], stopping: Stopping) -> int:
    try:
        args = _parse(words)
        outcome = _run(args.run, args)
    except StoppedError as error:
        _complain(error, words)
        return stopping.exit_code
    except CommandError as error:
        return _complain(error, words)
    except KeyboardInterrupt:
        say("deepssm: stopped; nothing was written.", sys.stderr)
        return stopping.exit_code
    _report(outcome, as_json=args.json)
    return 0


def _parse(words: list[str]) -> argparse.Namespace:
    parser, commands = build_parser()
    if not words:
        words = ["--help"]
    if not words[0].startswith("-") and words[0] not in commands:
        raise UsageError(
            f"there is no command '{words[0]}'.{did_you_mean(words[0], list(commands))} "
            f"Commands: {', '.join(commands)}"
        )
    args, unknown = parser.parse_known_args(words)
    if unknown:
        command = commands[words[0]]
        options = re.findall(r"--[a-z][a-z-]*", command.format_usage())
        raise UsageError(
            f"unknown argument '{unknown[0]}'.{did_you_mean(unknown[0], options)} "
            f"See: {command.prog} --help"
        )
    return args


def _run(command: Callable[[argparse.Namespace], Outcome], args: argparse.Namespace) -> Outcome:
    """Run a command; errors of the library become failures with an exit code."""
    from .failures import translated

    with translated():
        return command(args)


def _report(outcome: Outcome, *, as_json: bool) -> None:
    if as_json:
        written = None if outcome.written is None else str(outcome.written)
        data = {**outcome.data, "written": written, "next": outcome.next_command}
        print(json.dumps(data, indent=2))
        return
    stream = sys.stderr if outcome.piped else sys.stdout
    if outcome.text:
        say(outcome.text, stream)
    say(outcome.last_line, stream)


def _complain(error: CommandError, words: list[str]) -> int:
    line = shortened(" ".join(str(error).split()))
    say(f"deepssm: {line}", sys.stderr)
    if "--json" in words:
        print(json.dumps({"error": line, "exit_code": error.exit_code}))
    return error.exit_code
