"""Values that are made by the ten thousand a second."""

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

T = TypeVar("T")


@dataclass_transform(frozen_default=True)
def quick_value(cls: type[T]) -> type[T]:
    """A frozen dataclass to mypy, which refuses to assign to its fields; at run time one that is not frozen.

    Freezing at run time makes three times as dear to make one: each field is set by a call.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)


@dataclass_transform(frozen_default=True, eq_default=False)
def quick_thing(cls: type[T]) -> type[T]:
    """The same, but each is equal to itself alone."""
    return dataclass(slots=True, eq=False)(cls)
