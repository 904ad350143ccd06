"""Leaves build-info.json in every output: `build_info.py FACTS.json ABI -- COMPILER…`.

FACTS is what the recipe knows, {output folder: facts}; ABI is what ggml's headers hash to, by which programs and GPU
modules know each other; the compiler's version is asked of the compiler itself.
"""

import json
import subprocess
import sys
from pathlib import Path


def main() -> None:
    facts = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    said = subprocess.run([*sys.argv[4:], "--version"], capture_output=True, text=True, check=True).stdout
    for output, info in facts.items():
        info["compiler"]["version"] = said.splitlines()[0]
        info["ggml"] = {"abi": sys.argv[2]}
        text = json.dumps(info, indent=1, sort_keys=True, ensure_ascii=False)
        Path("/forge/out", output, "build-info.json").write_text(text + "\n", encoding="utf-8")


main()
