"""`system.dataset`, and tables in requests."""

from __future__ import annotations

from collections.abc import Callable

import numpy
import pandas
import pytest

import headgate

Plant = Callable[..., headgate.Gateway]

HEADERS = ["City", "Population", "Timezone"]
CITIES = [["New York", 8363710, "EST"], ["Los Angeles", 3833995, "PST"]]


def test_to_data_set() -> None:
    """toDataSet makes a table of headers and rows, as in the manual."""
    functions = headgate.system.dataset
    cities = functions.toDataSet(HEADERS, CITIES)
    assert isinstance(cities, headgate.Dataset)
    assert cities.getColumnAsList(0) == ["New York", "Los Angeles"]
    assert functions.getColumnHeaders(cities) == HEADERS
    assert functions.toPyDataSet(cities) is functions.toDataSet(cities) is cities


def test_functions_that_are_not_there() -> None:
    """Another function of the manual's system.dataset raises NotImplementedError that names it."""
    with pytest.raises(NotImplementedError, match=r"system\.dataset\.addRow"):
        headgate.system.dataset.addRow(None)  # type: ignore[attr-defined]


def test_table_to_a_handler_and_back(plant: Plant) -> None:
    """A script gets a table, reads it as in Ignition, and returns one that it makes."""
    hub = plant(
        largest="""
            def handleMessage(payload):
                table = payload["table"]
                best = max(range(table.rowCount), key=lambda at: table.getValueAt(at, "population"))
                rows = [[row["City"] for row in table if row["city"] == table[best]["City"]]]
                return system.dataset.toDataSet(["Largest"], rows)
            """
    )
    frame = pandas.DataFrame(CITIES, columns=HEADERS)
    answer = hub.system.util.sendRequest("ACME", "largest", {"table": frame})
    assert answer == headgate.Dataset(["Largest"], [["New York"]])


def test_array_to_a_handler_and_back(plant: Plant) -> None:
    """A script gets an array that is its own, and returns it."""
    hub = plant(
        double="""
            def handleMessage(payload):
                payload["a"] *= 2
                return payload["a"]
            """
    )
    sent = numpy.arange(6.0).reshape(2, 3)
    answer = hub.system.util.sendRequest("ACME", "double", {"a": sent})
    assert answer.tolist() == [[0, 2, 4], [6, 8, 10]]
    assert sent[0, 1] == 1


def test_json() -> None:
    """jsonEncode writes a table as columns and rows, and an array as lists."""
    table = headgate.Dataset(["a", "b"], [[1, "x"], [None, "y"]])
    assert headgate.system.util.jsonEncode({"t": table, "n": numpy.eye(2), "i": numpy.int8(3)}) == (
        '{"t":{"columns":[{"name":"a","type":"int"},{"name":"b","type":"str"}],'
        '"rows":[[1,"x"],[null,"y"]]},"n":[[1.0,0.0],[0.0,1.0]],"i":3}'
    )
