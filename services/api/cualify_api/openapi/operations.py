"""Every route of `/api/v1`."""

from typing import Final

from cualify_api.openapi.building import Paths, operation, success
from cualify_api.openapi.of_account import ACCOUNT, CONTACTS
from cualify_api.openapi.of_calls import CALLS
from cualify_api.openapi.of_money import MONEY
from cualify_api.openapi.of_webhooks import WEBHOOKS

_DOCUMENT: Final = operation(
    "getDocument",
    "Account",
    "This document",
    success(200, "OpenAPI 3.1.", {"type": "object"}, {"openapi": "3.1.0"}),
    refusals=("too_many_requests", "internal_error"),
)

PATHS: Final[Paths] = {
    **CALLS,
    **CONTACTS,
    **WEBHOOKS,
    **ACCOUNT,
    **MONEY,
    "/api/v1/openapi.json": {"get": {**_DOCUMENT, "security": []}},
}
