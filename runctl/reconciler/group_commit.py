"""One durable transaction for all writes that come in while the last one is being synced to the disk."""

from __future__ import annotations

import anyio
import anyio.to_thread
import msgspec

from runctl.store.interface import Receipt, Store, StoreError, StoreUnavailable, Write


class _Waiting(msgspec.Struct):
    write: Write
    ready: anyio.Event
    receipt: Receipt | Exception | None = None


class GroupCommit:
    """Awaitable writes to a store. The first writer in line carries the whole batch; the others only wait."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._line: list[_Waiting] = []
        self._carrying = False

    async def apply(self, write: Write) -> int:
        """The write's receipt, once it is durable. Raises what the store refuses it with, or fails with.

        A cancelled caller's write may still be done.
        """
        mine = _Waiting(write, anyio.Event())
        self._line.append(mine)
        if not self._carrying:
            await self._carry()
        else:
            await mine.ready.wait()
        assert mine.receipt is not None
        if isinstance(mine.receipt, Exception):
            raise mine.receipt
        return mine.receipt

    async def _carry(self) -> None:
        self._carrying = True
        with anyio.CancelScope(shield=True):
            try:
                while self._line:
                    batch, self._line = self._line, []
                    await self._commit(batch)
            finally:
                self._carrying = False
                self._fail(self._line)
                self._line = []

    def _fail(self, line: list[_Waiting]) -> None:
        """Nobody carries these any more: what carried them broke."""
        for one in line:
            one.receipt = StoreUnavailable("the store failed")
            one.ready.set()

    async def _commit(self, batch: list[_Waiting]) -> None:
        receipts: list[Receipt | Exception]
        try:
            receipts = [*await self._written([one.write for one in batch])]
        except StoreError as error:
            receipts = [error] * len(batch)
        except Exception as error:
            # A defect that one write brings out must not keep the others from being done.
            receipts = [error] if len(batch) == 1 else [await self._alone(one.write) for one in batch]
        except BaseException as error:
            receipts = [StoreUnavailable(f"the store failed: {error}")] * len(batch)
            raise
        finally:
            for one, receipt in zip(batch, receipts, strict=True):
                one.receipt = receipt
                one.ready.set()

    async def _alone(self, write: Write) -> Receipt | Exception:
        try:
            (receipt,) = await self._written([write])
        except Exception as error:
            return error
        return receipt

    async def _written(self, writes: list[Write]) -> list[Receipt]:
        return await anyio.to_thread.run_sync(self._store.apply, writes)
