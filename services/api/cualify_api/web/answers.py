"""Rows as JSON: ids and instants as text."""

from datetime import datetime
from typing import Any
from uuid import UUID

from cualify_shared.clock import rfc3339
from cualify_shared.database import Row


def row_view(row: Row) -> dict[str, Any]:
    """A row, its columns as they are named."""
    return {name: _plain(value) for name, value in row.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return rfc3339(value)
    return str(value) if isinstance(value, UUID) else value
