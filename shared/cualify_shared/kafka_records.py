"""What a broken writer put into a record's header names, read all the same.

A name on Kafka is bytes. aiokafka takes it for UTF-8, and where it is not, its parser gives up the whole fetch, again
and again: one such record would stop a consumer for good. Here it is written with `\\xff` for each wrong byte, and
the record is handled or parked like any other.
"""

from collections.abc import Iterator
from typing import Any

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import DefaultRecordBatch, _DefaultRecordBatchPy
from aiokafka.record.memory_records import _MemoryRecordsPy


def install() -> None:
    """For all consumers of this process. aiokafka takes no parser from outside; a test on a broker holds this."""
    fetcher.MemoryRecords = _Records


class _Records(_MemoryRecordsPy):  # type: ignore[misc]
    """A fetched partition, batch by batch."""

    def next_batch(self, *arguments: Any) -> Any:
        """The quick parser's batch, with a slower one behind it."""
        data, batch = self._next_slice, super().next_batch(*arguments)
        return _Batch(data, batch) if isinstance(batch, DefaultRecordBatch) else batch


class _Batch:
    """A batch that knows its bytes."""

    def __init__(self, data: memoryview, batch: Any) -> None:
        self._data, self._batch = data, batch

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __iter__(self) -> Iterator[Any]:
        try:
            return iter([*self._batch])
        except UnicodeDecodeError:
            return iter(_leniently(self._data))


def _leniently(data: memoryview) -> Any:
    batch: Any = _DefaultRecordBatchPy(data)
    batch._maybe_uncompress()
    batch._buffer = _AnyText(batch._buffer)
    return batch


class _AnyText(bytearray):
    """Bytes of which every part is text."""

    def __getitem__(self, at: Any) -> Any:
        found = super().__getitem__(at)
        return _AnyText(found) if isinstance(at, slice) else found

    def decode(self, *_: Any) -> str:
        """UTF-8, and what is not as `\\xff`."""
        return super().decode("utf-8", "backslashreplace")
