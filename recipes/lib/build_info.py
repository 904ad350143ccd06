"""build-info.json, which lies in every output with a program of llama.cpp and says how it was built."""

from json import dumps

from mmojo_forge.recipe import Files
from recipes.lib.llama_cpp import described

INFO = {"info": Files("info")}


def build_infos(infos, compiler):
    """The phase that leaves the facts of each output there; the compiler's version and ggml's ABI it finds out."""
    facts = {output: {"schema": 1, "llama.cpp": described(), **info} for output, info in infos.items()}
    return f"""
cat > /build/facts.json <<'END'
{dumps(facts, indent=1, sort_keys=True)}
END
abi=$(sh /forge/source/ggml/mmojo-abi.sh /forge/source/ggml | cut -d '"' -f 2)
python3 -B /forge/info/build_info.py /build/facts.json "$abi" -- {compiler}
"""


def join_infos(names):
    """Shell text that makes one build-info.json of those of several inputs."""
    return f"python3 -B /forge/info/join_infos.py build-info.json {' '.join(names)}"
