from __future__ import annotations

import signal

# A shell that starts the tests in the background hands on an ignored SIGINT, which programs then inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)
