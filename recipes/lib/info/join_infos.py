"""The build-info.json of one file made of several: `join_infos.py OUT SLICE…`, inputs being /forge/SLICE."""

import json
import sys
from pathlib import Path


def main() -> None:
    slices = {name: json.loads(Path("/forge", name, "build-info.json").read_text(encoding="utf-8")) for name in sys.argv[2:]}
    one = next(iter(slices.values()))
    joined = {
        "schema": 1,
        "program": one["program"],
        "llama.cpp": one["llama.cpp"],
        "ggml": one["ggml"],
        "threads": one["threads"],
        "reproducible": all(info["reproducible"] for info in slices.values()),
        "reasons": sorted({reason for info in slices.values() for reason in info["reasons"]}),
        "slices": slices,
    }
    text = json.dumps(joined, indent=1, sort_keys=True, ensure_ascii=False)
    Path(sys.argv[1]).write_text(text + "\n", encoding="utf-8")


main()
