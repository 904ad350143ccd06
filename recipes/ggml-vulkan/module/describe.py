"""Writes module.json: `describe.py FACTS SUPPORTED > module.json`.

FACTS is what the recipe knows; SUPPORTED has a definition of ggml-vulkan's CMake files for each extension of GLSL that
glslc understands, by which shaders for matrix cores, dot products of integers and the like are in the module or not.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

PROBE = re.compile("GGML_VULKAN_([A-Z0-9_]+)_GLSLC_SUPPORT")
SOURCE = Path("/forge/source/src")


def main() -> None:
    facts = json.loads(sys.argv[1])
    said = subprocess.run(["/forge/vulkan/bin/glslc", "--version"], capture_output=True, text=True, check=True).stdout
    supported = PROBE.findall(Path(sys.argv[2]).read_text(encoding="utf-8"))
    probes = PROBE.findall((SOURCE / "ggml-vulkan/CMakeLists.txt").read_text(encoding="utf-8"))
    facts["glslc"] = {"version": said.splitlines()[0], "extensions": {name.lower(): name in supported for name in probes}}
    facts["ggml"]["abi"] = (SOURCE / "mmojo-abi.h").read_text(encoding="utf-8").split('"')[1]
    print(json.dumps(facts, indent=1, sort_keys=True))


main()
