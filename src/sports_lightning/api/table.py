"""Tables for notebooks: DataFrames where pandas is installed, lists of dicts elsewhere."""

from collections.abc import Iterable, Mapping
from typing import Any


def table(rows: Iterable[Mapping[str, Any]]) -> Any:
    """A pandas DataFrame with these rows, or where pandas is not installed a list of dicts."""
    listed = [dict(row) for row in rows]
    try:
        import pandas as pd
    except ImportError:
        return listed
    return pd.DataFrame(listed)


def parse_numbers(row: Mapping[str, str]) -> dict[str, int | float | str | None]:
    """The cells of a CSV row as numbers where they are numbers; None for an empty cell."""
    return {name: _parse(cell) for name, cell in row.items()}


def _parse(cell: str) -> int | float | str | None:
    for kind in (int, float) if "_" not in cell else ():  # Python reads "1_000" as a number
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell or None
