"""Section: parameters and operations, and what of them runs in integers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from motrlab.report.blocks import Section, Source, Table, pivot
from motrlab.report.values import GRAPHS, number, value_text, words


def section(source: Source) -> Section:
    calops = graph_table(source.metrics("float", "calops"), title="Parameters and operations (calops)")
    integer = graph_table(
        source.metrics("fixed_point", "integer"),
        title="Share of the work in integer kernels",
        note="Products are the convolutions and matrix products of the graph as ONNX Runtime optimised it; other "
        "operators are not among them.",
    )
    by_name = float_nodes(source.metrics("fixed_point", "integer"))
    missing = ["calops"] * (calops is None) + ["the integer share"] * (integer is None)
    return Section([calops, integer, by_name], missing)


def graph_table(metrics: Mapping[str, Any], **fields: str) -> Table | None:
    """`base.NAME` and `qim.NAME` keys → graphs in rows, NAMEs in columns; shares as percent."""
    found = {}
    for graph, title in GRAPHS.items():
        for name in (key.removeprefix(f"{graph}.") for key in metrics if key.startswith(f"{graph}.")):
            if (value := number(metrics[f"{graph}.{name}"])) is not None:
                found[title, words(name)] = value_text(name, value)
    return pivot(found, str, **fields)


def float_nodes(metrics: Mapping[str, Any]) -> Table | None:
    """Operators in rows, graphs in columns: how many nodes touch float32."""
    told = {title: str(metrics.get(f"{graph}.float_nodes", "")) for graph, title in GRAPHS.items()}
    pairs = ((item.rpartition(" "), title) for title, text in told.items() for item in text.split(", ") if item)
    return pivot(
        {(name, title): count for (name, _, count), title in pairs}, str,
        title="Nodes that touch float32", corner="operator",
        note="What they give is exact in float32: integers, sums of integers below 2²⁴, one operation that is rounded "
        "once, or a value that a table turns into a grid's.",
    )  # fmt: skip
