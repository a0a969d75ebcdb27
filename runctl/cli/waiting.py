"""The time that a command may wait."""

from __future__ import annotations

from datetime import timedelta

from runctl.cli.errors import Failure
from runctl.cli.exit_codes import ExitCode


def parse_timeout(text: str | None) -> timedelta | None:
    if text is None:
        return None
    from runctl.manifest.quantities import QuantityError, parse_duration

    try:
        return parse_duration(text).delta
    except QuantityError as error:
        raise Failure(ExitCode.INVALID, f"--timeout: {error}", hint=error.hint) from None
