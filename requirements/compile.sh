#!/bin/sh
# compile.sh [OPTION…]: writes the pinned requirement files from pyproject.toml with pip-compile, which must be on PATH.
# Pins that still hold stay; OPTIONs go to each pip-compile (--upgrade, --upgrade-package NAME).
set -eu
cd "$(dirname "$0")/.."

compile() {  # compile NAME ARGUMENT…
    name=$1
    shift
    CUSTOM_COMPILE_COMMAND='sh requirements/compile.sh' pip-compile --quiet --generate-hashes --strip-extras \
        --no-emit-index-url --no-emit-find-links --output-file "requirements/$name.txt" "$@"
}

compile forge "$@" pyproject.toml
# What an extra adds must agree with what is installed already.
for extra in inspect plot s3 serve; do
    python3 - "$extra" <<'END' | compile "$extra" --constraint requirements/forge.txt "$@" -
import sys, tomllib
with open("pyproject.toml", "rb") as file:
    print("\n".join(tomllib.load(file)["project"]["optional-dependencies"][sys.argv[1]]))
END
done
set -- "$@" --all-extras pyproject.toml
for pinned in forge inspect plot s3 serve; do set -- --constraint "requirements/$pinned.txt" "$@"; done
compile check "$@"
