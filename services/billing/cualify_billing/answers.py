"""Reading what another server answers: all of it, however many pieces it comes in, up to a limit."""

import aiohttp

PIECE_BYTES = 65_536


class TooLong(Exception):
    """There is more of it than anybody needs."""


async def whole(answer: aiohttp.ClientResponse, *, most_bytes: int) -> bytes:
    """The body. `content.read(n)` would give the first piece that has come.

    Raises:
        TooLong: it has more than `most_bytes`; the rest is not read.
    """
    read = bytearray()
    async for piece in answer.content.iter_chunked(PIECE_BYTES):
        read += piece
        if len(read) > most_bytes:
            raise TooLong
    return bytes(read)
