"""Tables as aligned text, for notebooks and terminals."""

from __future__ import annotations

from motrlab.report.tables import Cell, Table


def table_text(table: Table | None) -> str:
    """Columns aligned to the right; a delta stands in parentheses after its value."""
    if table is None:
        return "no accuracy has been measured yet"
    header = [table.corner, *table.columns]
    rows = [[row.label, *(_cell_text(cell) for cell in row.cells)] for row in table.rows]
    widths = [max(len(r[i]) for r in [header, *rows]) for i in range(len(header))]
    lines = [_line(header, widths)]
    for heading, group in table.groups:
        lines += [heading] if heading else []
        lines += [_line([row.label, *(_cell_text(cell) for cell in row.cells)], widths) for row in group]
    return "\n".join(lines)


def _cell_text(cell: Cell) -> str:
    return f"{cell.text} ({cell.delta})" if cell.delta else cell.text


def _line(values: list[str], widths: list[int]) -> str:
    first = values[0].ljust(widths[0])
    return "  ".join([first, *(v.rjust(w) for v, w in zip(values[1:], widths[1:], strict=True))]).rstrip()
