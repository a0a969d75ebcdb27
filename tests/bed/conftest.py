from __future__ import annotations

from collections.abc import Iterator

import pytest

from .region import Region, open_region
from .sshd import NoOpenSSH


@pytest.fixture
def region() -> Iterator[Region]:
    """A region without hosts yet."""
    try:
        with open_region() as opened:
            yield opened
    except NoOpenSSH as error:
        pytest.skip(f"left out: every host, since there is {error}")
