"""Large uploads by way of an S3 store: a site puts bytes in a place of its own, the coordinator takes
them in.

What lies there is published to nobody.  It is read in pieces, as if the site sent them: size, digest,
quota and put-if-absent are those of every upload, and whatever is changed there meanwhile ends in the
wrong digest.  A site has two places, so that it cannot fill the bucket and nothing has to be swept.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from folkmoot.errors import TransientError
from folkmoot.exchange import ExchangeStore

__all__ = ["LINKED", "Staging"]

#: Seconds that a link to the store works; whoever began by then goes on.
LINKED = 300
#: Bytes that are fetched at once.
_PIECE = 8 << 20
#: No artefact's key begins with a dot.
_FOLDER = ".uploads"


class Staging:
    """Places of uploads in an S3 store.

    Parameters
    ----------
    store : ExchangeStore
        The coordinator's own.

    Raises
    ------
    TransientError
        From each method, ``transient.exchange`` where the store does not answer as it should.
    """

    def __init__(self, store: ExchangeStore) -> None:
        self._fs: Any
        self._fs, self._root = store.files()

    async def link(self, place: str, size: int) -> str:
        """Where ``size`` bytes, no more and no fewer, may be put for some minutes."""
        wanted = {"client_method": "put_object", "ContentLength": size}
        return str(await self._ask("sign", place, LINKED, **wanted))

    async def size(self, place: str) -> int | None:
        """Bytes that lie in a place; None for none."""
        found = await self._ask("info", place)
        return None if found is None else int(found["size"])

    async def pieces(self, place: str, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes of a place from ``start`` to ``end``, or as many as there are."""
        while start < end:
            data = await self._ask("cat_file", place, start=start, end=min(start + _PIECE, end))
            if not data:
                return
            yield bytes(data)
            start += len(data)

    async def drop(self, place: str) -> None:
        """Empty a place."""
        await self._ask("rm_file", place)

    async def _ask(self, what: str, place: str, *arguments: Any, **named: Any) -> Any:
        path = f"{self._root}/{_FOLDER}/{place}"
        try:
            return await asyncio.to_thread(getattr(self._fs, what), path, *arguments, **named)
        except FileNotFoundError:
            return None
        except Exception as error:  # each store has its own
            raise TransientError(
                "transient.exchange",
                f"The exchange store did not give or take an upload ({type(error).__name__}).",
                "Check the store's rights and network; the site goes on by itself.",
            ) from None
