"""`python -m runctl.reconciler`: the controller in the background, without the command line around it, which would
double the time that its start takes.
"""

from __future__ import annotations

import os
import sys

from runctl.home import find_home
from runctl.reconciler.background import run_background, tell
from runctl.store.interface import StoreError


def main() -> int:
    try:
        return run_background(find_home(os.environ), os.environ)
    except StoreError as error:
        tell(f"{error}" + (f"; {error.hint}" if error.hint else ""))
    except OSError as error:
        tell(f"`{error.filename}`: {error.strerror}")
    return 1


code = main()
sys.stderr.flush()
os._exit(code)  # without taking all modules apart, which takes as long as half of the start
