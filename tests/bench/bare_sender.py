"""The peer: a bare pycurl multi loop that signs each request, and nothing else: `python -m … URL COUNT`.

It prints CPU-ms a request of its own process.
"""

import sys
import time
from typing import Any

import pycurl  # type: ignore[import-untyped, unused-ignore]

from cualify_webhook_dispatcher import sign

AT_ONCE = 32


def main(url: str, count: int, size: int) -> None:
    """Sends `count` requests, 32 at a time."""
    multi: Any = pycurl.CurlMulti()
    secret, content = (
        sign.new_secret(),
        b'{"timestamp":"2026-05-31T14:22:11Z","sequence":1,"data":{"id":"x' + b"x" * size,
    )
    content += b'"}}'
    idle: list[Any] = []
    for _ in range(AT_ONCE):
        curl: Any = pycurl.Curl()
        curl.setopt(pycurl.URL, url)
        curl.setopt(pycurl.POST, 1)
        curl.setopt(pycurl.NOSIGNAL, 1)
        idle.append(curl)
    begun = done = 0
    cpu = time.process_time()
    while done < count:
        while idle and begun < count:
            curl = idle.pop()
            lines = sign.headers(
                notification_id=f"evt_{begun}", content=content, secrets=[secret], at_unix=int(time.time())
            )
            curl.setopt(pycurl.HTTPHEADER, ["Content-Type: application/json", "Expect:", *lines])
            curl.setopt(pycurl.POSTFIELDS, content)
            multi.add_handle(curl)
            begun += 1
        multi.perform()
        multi.select(1.0)
        _, good, bad = multi.info_read(100)
        assert not bad, bad
        for curl in good:
            multi.remove_handle(curl)
            idle.append(curl)
        done += len(good)
    print((time.process_time() - cpu) * 1000 / count)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
