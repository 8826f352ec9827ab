"""The exceptions that megen raises on purpose.

MegenError
├── InputError     a wrong input: a file, a number, a word (exit code 2); also a ValueError
└── RunError       a run that failed although its inputs were right (exit code 1)
"""

from __future__ import annotations


class MegenError(Exception):
    """Whatever megen raises on purpose."""


class InputError(MegenError, ValueError):
    """A wrong input: what was wrong, the bound, the mend, in one line."""


class RunError(MegenError, RuntimeError):
    """A run that failed although its inputs were right."""
