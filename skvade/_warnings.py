"""Warnings that point at the user's own line, and notes on errors of their code."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["noting", "warn"]

# Who may stand between that line and the warning: `fit_predict` of ours, a pipeline, a
# search, in processes or not.
_BETWEEN = {"skvade", "sklearn", "joblib"}


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn, pointing at the innermost call from outside of those packages.

    From Python 3.12 on, `skip_file_prefixes` does the same.
    """
    level, frame = 1, sys._getframe()
    while frame.f_back and _package(frame.f_globals) in _BETWEEN:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def _package(names: dict) -> str:
    return names.get("__name__", "").partition(".")[0]


@contextmanager
def noting(note: str) -> Iterator[None]:
    """Say on errors in the user's code how it was called."""
    try:
        yield
    except Exception as error:
        error.add_note(note)
        raise
