"""The manual's `system.dataset`: tables are made; what they hold is read from themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from headgate.dataset import Dataset
from headgate.system.namespace import Namespace

__all__ = ["DatasetFunctions", "getColumnHeaders", "toDataSet", "toPyDataSet"]


class DatasetFunctions(Namespace):
    """Functions that make tables."""

    _module = "dataset"

    def toDataSet(
        self, headers: Dataset | Iterable[str], data: Iterable[Sequence[Any]] = ()
    ) -> Dataset:
        """
        Make a table.

        Args:
            headers: The columns' names; or a table, which is returned as it is.
            data: Rows, each of as many values. A column's type is that of its values.

        Raises:
            ValueError: A name stands there twice, or a row has more or fewer values than columns.
            TypeError: The values of a column are of different types.
        """
        return headers if isinstance(headers, Dataset) else Dataset(headers, data)

    def toPyDataSet(self, dataset: Dataset) -> Dataset:
        """Return the table as it is: it is a sequence of rows already."""
        return self.toDataSet(dataset)

    def getColumnHeaders(self, dataset: Dataset) -> list[str]:
        """Return the names of a table's columns."""
        return dataset.getColumnNames()


_here = DatasetFunctions()
getColumnHeaders = _here.getColumnHeaders
toDataSet = _here.toDataSet
toPyDataSet = _here.toPyDataSet

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        return getattr(_here, name)
