"""`python -m bench [--quick] [CASE…]`: print a Markdown table, and write all times to bench/results/latest.json.

`python -m bench packed` measures a server with its model inside (bench/packed.py). `python -m bench soak` measures
nothing: it kills processes and looks for what breaks (bench/soak.py).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

# The environment that ./forge makes. Every case runs with its packages.
_ENVIRONMENT = os.environ.get("FORGE_VENV") or ".venv"

try:
    from bench import packed, soak
    from bench.cases import CASES, Sides
    from bench.measure import Row
except ModuleNotFoundError as error:
    here = f"{_ENVIRONMENT}/bin/python -m bench"
    raise SystemExit(f"bench: the package {error.name} is missing. ./forge installs it; then run: {here}") from error

# Slow cases: they build llama.cpp if it is not built yet.
LONG = ("cache", "real")
RESULTS = Path(__file__).resolve().parent / "results"


def main() -> None:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "cases", nargs="*", metavar="CASE", help=f"one of {', '.join(CASES)} (default: all but {' and '.join(LONG)})"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, few runs")
    arguments = parser.parse_args()
    rows: list[Row] = []
    print("| what | forge | peer | ratio | budget |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="forge-bench-") as scratch:
        sides = Sides(Path(scratch), quick=arguments.quick)
        for name in arguments.cases or [name for name in CASES if name not in LONG]:
            for row in CASES[name](sides):
                rows.append(row)
                print("| " + " | ".join(row.cells()) + " |", flush=True)
    RESULTS.mkdir(exist_ok=True)
    machine = {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
    document = {"machine": machine, "rows": [asdict(row) for row in rows]}
    (RESULTS / "latest.json").write_text(json.dumps(document, indent=1))
    print(f"\n{machine['cpu']}, {machine['cores']} cores, Linux {machine['kernel']}, Python {machine['python']}")


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    if sys.argv[1:2] == ["soak"]:
        soak.main(sys.argv[2:])
    elif sys.argv[1:2] == ["packed"]:
        packed.main(sys.argv[2:])
    else:
        main()
