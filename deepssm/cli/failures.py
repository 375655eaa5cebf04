"""Which exit code an error of the library has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .exit_codes import CommandError, DataError, MissingExtraError, NumericalError, short


@contextmanager
def surviving(what: str, failures: list[str]) -> Iterator[None]:
    """Run what a fit must not be lost for, such as a score or a picture; note how it failed.

    Args:
        what: What it is, at the beginning of a sentence.
        failures: Sentences on what failed, to which one is added.
    """
    try:
        yield
    except CommandError:
        raise
    except Exception as error:  # noqa: BLE001  # whatever it is, the fit is worth more
        kind, reason = type(error).__name__, short(error).rstrip(".")
        said = kind if reason == kind else f"{kind}: {reason}"
        failures.append(f"{what} could not be made ({said}).")


@contextmanager
def translated() -> Iterator[None]:
    """Turn the library's errors into failures of one line with an exit code.

    Raises:
        DataError: for a `ValueError` or an operating system error.
        NumericalError: for an arithmetic error or a failed factorization.
        MissingExtraError: for a package that is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"this needs the package '{error.name}': python -m pip install {error.name}"
        ) from error
    except OSError as error:
        raise DataError(f"{error.filename or 'file'}: {error.strerror or error}") from error
    except ValueError as error:
        # Pyro and torch.distributions report a non-finite parameter as a `ValueError`.
        kind = (
            NumericalError if "nan" in str(error) and "invalid values" in str(error) else DataError
        )
        raise kind(str(error)) from error
    except ArithmeticError as error:
        raise NumericalError(f"the numbers broke down: {error}") from error
    except RuntimeError as error:
        if not type(error).__name__.endswith("LinAlgError"):
            raise
        raise NumericalError(f"a covariance lost positive definiteness: {error}") from error
