"""Which calls `GET /api/v1/calls` is asked for."""

from starlette.requests import Request

from cualify_api.calls.call import STATUSES
from cualify_api.calls.listing import Wanted
from cualify_api.calls.totals import ALWAYS, Span
from cualify_api.web import filters


def wanted_calls(request: Request) -> Wanted:
    """From the query. Raises Problem for a value that can't be meant."""
    after, before = filters.instant(request, "created_after"), filters.instant(request, "created_before")
    # Every call is outbound as yet.
    inbound = filters.one_of(request, "direction", ("outbound", "inbound")) == "inbound"
    span = Span(max(after or ALWAYS.start, ALWAYS.start), min(before or ALWAYS.end, ALWAYS.end))
    return Wanted(
        statuses=filters.some_of(request, "status", STATUSES),
        agent_id=filters.uuid(request, "agent_id"),
        to_e164=filters.e164_number(request, "to_e164"),
        external_id=filters.text(request, "external_id"),
        span=Span(ALWAYS.start, ALWAYS.start) if inbound else span,
        metadata=filters.keyed(request),
    )
