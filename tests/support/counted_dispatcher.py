"""The dispatcher as it is, counting its SQL statements: `STATEMENTS_FILE` gets their number every tenth of a second."""

import asyncio
import os
from pathlib import Path
from typing import Any

from cualify_shared import database
from cualify_webhook_dispatcher.main import SERVICE

_count = 0


def _on_query(_: Any) -> None:
    global _count
    _count += 1


_speak_json = database._speak_json


async def _counted(connection: Any) -> None:
    await _speak_json(connection)
    connection.add_query_logger(_on_query)


async def _tell(path: Path) -> None:
    while True:
        _write(path)
        await asyncio.sleep(0.1)


def _write(path: Path) -> None:
    path.write_text(str(_count))


if __name__ == "__main__":
    database._speak_json = _counted
    made = SERVICE.parts
    telling: list[asyncio.Task[None]] = []

    def parts(context: Any) -> Any:
        telling.append(asyncio.get_running_loop().create_task(_tell(Path(os.environ["STATEMENTS_FILE"]))))
        return made(context)

    object.__setattr__(SERVICE, "parts", parts)
    SERVICE.run()
