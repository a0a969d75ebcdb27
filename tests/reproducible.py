"""Property tests try the same examples each time: a run that is red today was red yesterday.

That an example takes long on a busy machine is no finding. Imported by the `conftest.py` of each directory that has
property tests, and by no other: the library takes a third of a worker's start.
"""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "reproducible", derandomize=True, database=None, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("reproducible")
