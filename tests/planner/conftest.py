"""Property tests try the same examples each time: a run that is red today was red yesterday."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("reproducible", derandomize=True, database=None)
settings.load_profile("reproducible")
