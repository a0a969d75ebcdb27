"""Linux's prctl, which the standard library lacks."""

from __future__ import annotations

import sys

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36


def prctl(option: int, value: int) -> bool:
    """Whether the kernel has done it; False where there is none. For processes that exec or end soon after: it loads
    a foreign function interface. Its core alone where it can, since `ctypes` around that takes as long to import as
    Python to start.
    """
    if not sys.platform.startswith("linux"):
        return False
    arguments = (option, value, 0, 0, 0)
    try:
        import _ctypes

        library = _ctypes.dlopen(None, 0)  # type: ignore[arg-type]  # None is this process, as `ctypes` has it
        return bool(_ctypes.call_function(_ctypes.dlsym(library, "prctl"), arguments) == 0)
    except (ImportError, OSError, AttributeError, TypeError):
        pass
    try:
        import ctypes

        return bool(ctypes.CDLL(None).prctl(*arguments) == 0)
    except (ImportError, OSError, AttributeError):
        return False
