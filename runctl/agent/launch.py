"""Entry: `python -I -S -E launch.py <run dir>` starts the attempt of that run directory, detached, and returns.

The same file is the entry of the guardian and of the agent, which are separate programs so that what starting them
needs (ctypes) is not in memory while they wait. Scripts are compiled at each start: what isn't one line is elsewhere.
"""

import gc
import os
import sys

gc.disable()  # whoever stays turns it on: in what is imported there is nothing to collect
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

if __name__ == "__main__":
    from runctl.agent.detach import main

    code = main(os.path.abspath(__file__), sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # without the taking apart of the interpreter, which is a tenth of a short process's life
