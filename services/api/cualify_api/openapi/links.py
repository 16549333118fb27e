"""What can be done next with what an answer has made: OpenAPI's links, from the answer to the operations that take its
id."""

from typing import Any, Final

_ID: Final = "$response.body#/data/id"
_NEXT: Final[dict[tuple[str, str, str], tuple[str, tuple[str, ...]]]] = {
    ("/api/v1/calls", "post", "201"): ("call_id", ("getCall", "cancelCall", "getTimeline")),
    ("/api/v1/calls/{call_id}", "get", "200"): ("call_id", ("cancelCall",)),
    ("/api/v1/calls/{call_id}/cancel", "post", "200"): ("call_id", ("getCall", "cancelCall", "getTimeline")),
    ("/api/v1/contacts", "post", "200"): ("contact_id", ("getContact", "eraseContact")),
    ("/api/v1/contacts/{contact_id}", "get", "200"): ("contact_id", ("eraseContact",)),
    ("/api/v1/contacts/{contact_id}", "delete", "200"): ("contact_id", ("getContact",)),
    ("/api/v1/webhooks", "post", "201"): (
        "endpoint_id",
        ("changeWebhook", "rotateSecret", "testWebhook", "listDeliveries", "replayDeliveries", "removeWebhook"),
    ),
    ("/api/v1/webhooks/{endpoint_id}", "patch", "200"): ("endpoint_id", ("removeWebhook",)),
    ("/api/v1/webhooks/{endpoint_id}", "delete", "200"): ("endpoint_id", ("listDeliveries",)),
}


def with_links(paths: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The paths, their answers saying what can follow."""
    linked = {path: dict(methods) for path, methods in paths.items()}
    for (path, method, status), (parameter, operations) in _NEXT.items():
        operation = linked[path][method]
        answer = {**operation["responses"][status], "links": _links(parameter, operations)}
        linked[path][method] = {**operation, "responses": {**operation["responses"], status: answer}}
    return linked


def _links(parameter: str, operations: tuple[str, ...]) -> dict[str, Any]:
    return {name: {"operationId": name, "parameters": {parameter: _ID}} for name in operations}
