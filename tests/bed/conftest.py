from __future__ import annotations

from collections.abc import Iterator

import pytest

from .region import Region, open_region
from .sshd import NoOpenSSH


@pytest.fixture
def region(request: pytest.FixtureRequest) -> Iterator[Region]:
    """A region without hosts yet. Skips where it lacks what the test names by the mark `needs`."""
    wanted = [trait for mark in request.node.iter_markers("needs") for trait in mark.args]
    try:
        with open_region() as opened:
            for trait in wanted:
                if trait in opened.missing:
                    pytest.skip(f"left out: {trait}, since {opened.missing[trait]}")
            yield opened
    except NoOpenSSH as error:
        pytest.skip(f"left out: every host, since there is {error}")
