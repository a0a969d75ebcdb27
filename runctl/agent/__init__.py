"""What runs on a host beside one attempt: it prepares, runs, watches, limits and ends one training.

Owns the run directory's `state.json`, `exit.json`, journals and logs, the host lock, and every process of the attempt.
Refuses to talk to anyone but through that directory, and to import anything past the standard library: it is copied to
hosts by content hash and must run on Python 3.9. `bundle.py` alone stays with the controller.
"""
