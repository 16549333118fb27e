"""The routes a test asks: the journal, the rings of one number, and whether the simulator itself is well. No key."""

import io
import wave
from collections import Counter

import orjson
from aiohttp import web

from cualify_simulator.bolna import answer
from cualify_simulator.book import Book
from cualify_simulator.callbacks import Postman
from cualify_simulator.faults import Faults
from cualify_simulator.journal import Journal
from cualify_simulator.refusals import Refusal, bad_field, not_found

LIMIT = 1_000


class Oracle:
    def __init__(self, journal: Journal, book: Book, postman: Postman, faults: Faults) -> None:
        self._faults = faults
        self._journal = journal
        self._book = book
        self._postman = postman
        self._silence = _second_of_silence()

    def routes(self) -> list[web.RouteDef]:
        return [
            web.get("/healthz", self.health),
            web.get("/journal", self.journal),
            web.get("/admin/faults", self.faults),
            web.put("/admin/faults", self.set_faults),
            web.get("/rings", self.rings),
            web.get("/recordings/call/{execution_id}", self.recording),
        ]

    async def health(self, request: web.Request) -> web.Response:
        if not self._postman.is_well:
            return answer({"status": "down", "loops": ["callbacks"]}, status=503)
        return answer({"status": "ok"})

    async def journal(self, request: web.Request) -> web.Response:
        after = _whole(request, "after", default=0, least=0, most=1 << 62)
        entries = self._journal.after(after, _whole(request, "limit", default=LIMIT, least=1, most=LIMIT))
        return answer({"entries": entries, "next": entries[-1]["n"] if entries else after})

    async def rings(self, request: web.Request) -> web.Response:
        """Among the executions still remembered."""
        # A `+` that was not escaped arrives as a blank.
        to_e164 = request.query.get("to_e164", "").replace(" ", "+", 1)
        rung = [execution for execution in self._book.of_callee(to_e164) if execution.has_rung]
        return answer({"count": len(rung), "by_ref": Counter(execution.cualify_ref or "" for execution in rung)})

    async def faults(self, request: web.Request) -> web.Response:
        return answer(dict(self._faults.rates))

    async def set_faults(self, request: web.Request) -> web.Response:
        try:
            rates = orjson.loads(await request.read())
            if not isinstance(rates, dict):
                raise ValueError("an object of rates is expected")
            self._faults.set(rates)
        except ValueError as problem:
            raise Refusal(422, bad_field("faults", str(problem)), noted=False) from problem
        return answer(dict(self._faults.rates))

    async def recording(self, request: web.Request) -> web.Response:
        execution = self._book.get(request.match_info["execution_id"])
        if execution is None or execution.status != "completed":
            raise not_found("Recording")
        return web.Response(body=self._silence, content_type="audio/wav")


def _whole(request: web.Request, name: str, *, default: int, least: int, most: int) -> int:
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 20 and least <= int(text) <= most):
        raise Refusal(422, bad_field(name, f"{least} to {most}", place="query"), noted=False)
    return int(text)


def _second_of_silence() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(1)
        sound.setframerate(8_000)
        sound.writeframes(b"\x80" * 8_000)
    return file.getvalue()
