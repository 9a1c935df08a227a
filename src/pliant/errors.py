# SPDX-License-Identifier: Apache-2.0
"""The errors people see: a sentence that names the thing at fault, and what to do next."""

from __future__ import annotations


class PliantError(Exception):
    """A problem to be told to a person in one sentence, with a remedy.

    ``message`` names what is wrong and where; ``remedy`` says what to do next and may be empty.
    The command line prints both and leaves with ``exit_status``.
    """

    exit_status = 2

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message
