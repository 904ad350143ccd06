"""What realising came to, as commands print it."""

from __future__ import annotations

import json
from collections.abc import Iterable

from mmojo_forge.engine.run import Result


def show(results: Iterable[Result], *, as_json: bool) -> None:
    """The paths, one a line, or one JSON object."""
    if as_json:
        rows = [
            {"target": row.target, "path": str(row.path), "tree": row.tree, "label": row.label.to_json()}
            for row in results
        ]
        print(json.dumps({"schema": 1, "results": rows}))
    else:
        print("\n".join(str(row.path) for row in results))
