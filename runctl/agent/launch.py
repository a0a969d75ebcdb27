"""Entry: `python -I -S -E launch.py <run dir>` starts the attempt of that run directory, detached, and returns.

The same file is the entry of the guardian and of the agent, which are separate programs so that what starting them
needs (ctypes) is not in memory while they wait. Scripts are compiled at each start: what isn't one line is elsewhere.
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

if __name__ == "__main__":
    from runctl.agent.detach import main

    sys.exit(main(os.path.abspath(__file__), sys.argv[1:]))
