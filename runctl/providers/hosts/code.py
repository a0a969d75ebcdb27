"""Frozen code on its way to a host, beside everything else."""

from __future__ import annotations

import anyio

from runctl.manifest.quantities import format_size
from runctl.providers.hosts.remote import RemoteHost
from runctl.providers.interface import ProviderError
from runctl.snapshots.errors import SnapshotError

# What was refused is tried again after so long: somebody may have made room.
AGAIN_SECONDS = 10.0
SOON_SECONDS = 1.0


class Delivery:
    """One snapshot. `told`: what there is to say of it, nothing once it is there."""

    def __init__(self, host: RemoteHost, code_hash: str) -> None:
        self._host = host
        self._code_hash = code_hash
        self._turn = host.link.turns
        self._failed_at: float | None = None
        self._over = anyio.Event()
        self.told = f"its code is on its way to {host.link.name}"

    async def run(self) -> None:
        name = self._host.link.name
        try:
            await self._host.bring(self._code_hash, self._progress)
            self.told = ""
        except (ProviderError, SnapshotError, OSError) as error:
            self.told = f"its code can't be brought to {name}: {error}"
            self._failed_at = anyio.current_time()
        except BaseException:
            self._failed_at = anyio.current_time()
            raise
        finally:
            self._over.set()

    async def soon(self) -> str:
        """What there is to say after a moment, in which most code has arrived."""
        with anyio.move_on_after(SOON_SECONDS):
            await self._over.wait()
        return self.told

    def is_to_be_repeated(self, turn: int) -> bool:
        """It has failed a while ago, or was brought to a host that may be another one since."""
        if self._failed_at is not None:
            return anyio.current_time() - self._failed_at >= AGAIN_SECONDS
        return not self.told and turn != self._turn

    def _progress(self, sent: int, total: int) -> None:
        if total:
            sizes = f"{format_size(sent)} of {format_size(total)}"
            self.told = f"its code is on its way to {self._host.link.name}: {sizes}"
