#!/bin/sh
# setup.sh NAME [COMMAND…]: installs requirements/NAME.txt, wheels only and by hash, into forge's Python environment,
# then runs COMMAND. ./forge, ./check and mmojo_forge/extras.py call it. It says all on stderr, for stdout is COMMAND's.
#
#   FORGE_PYTHON   a Python of version 3.11 or later (default: the first found)
#   FORGE_VENV     where the environment lies (default: .venv at the top of the checkout)
#
# VENV/requirements/X.Y has a copy of each file that was installed for Python X.Y. Only a copy with the same content
# counts: the times of a checkout's files say nothing, and packages for one Python are none for another.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
venv=${FORGE_VENV:-$root/.venv}
venv=${venv%/}
name=$1
shift
wanted=$root/requirements/$name.txt
unset PYTHONHOME PYTHONPATH

say() { printf 'forge: %s\n' "$*" >&2; }

# Prints the folder of the copies for the environment's Python; fails where there is no Python that works.
copies() {
    "$venv/bin/python" -I -S -c 'import sys; print(sys.argv[1] + "/requirements/%d.%d" % sys.version_info[:2])' \
        "$venv" 2>/dev/null
}

find_python() {
    for python in ${FORGE_PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if "$python" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then return 0; fi
    done
    say "needs Python 3.11 or later; set FORGE_PYTHON to one"
    return 3
}

# Without pip an environment is made in a tenth of a second instead of two, and is 25 MB smaller.
make_environment() {
    find_python || return 3
    "$python" -I -c 'import ensurepip, venv' 2>/dev/null || sh "$root/requirements/debian.sh" python3-venv || return 3
    mkdir -p "$venv/requirements" &&
        rm -rf "$venv"/requirements/* "${venv:?}/bin" "${venv:?}/lib" "${venv:?}/lib64" || return 3
    case $venv in
        *:*) # venv refuses a path that cannot stand in PATH. Nothing of ours looks there.
            scratch=$(mktemp -d) && "$python" -I -m venv --without-pip "$scratch" >&2 &&
                cp -a "$scratch/." "$venv" && rm -rf "$scratch" ;;
        *) "$python" -I -m venv --without-pip "$venv" >&2 ;;
    esac
}

# The wheel of pip that Python brings along (ensurepip); Debian keeps it elsewhere.
pip_wheel() {
    "$venv/bin/python" -I - <<'END'
import ensurepip, glob, os, sysconfig
bundled = os.path.join(os.path.dirname(ensurepip.__file__), "_bundled")
folders = (bundled, sysconfig.get_config_var("WHEEL_PKG_DIR") or bundled, "/usr/share/python-wheels")
print([wheel for folder in folders for wheel in glob.glob(os.path.join(glob.escape(folder), "pip-*.whl"))][0])
END
}

install() {
    wheel=$(pip_wheel) && "$venv/bin/python" -P "$wheel/pip" install -q --no-input --disable-pip-version-check \
        --require-hashes --only-binary :all: --no-deps -r "$wanted" >&2
}

# Written last, so an interrupted set-up is done again. check.txt contains all the others.
record() {
    folder=$(copies) && mkdir -p "$folder" || return 3
    if [ "$name" = check ]; then set -- "$root"/requirements/*.txt; else set -- "$wanted"; fi
    for file in "$@"; do
        cp "$file" "$folder/.new" && mv "$folder/.new" "$folder/${file##*/}" || return 3
    done
}

set_up() {
    folder=$(copies) || folder=''
    if [ -n "$folder" ] && cmp -s "$folder/$name.txt" "$wanted"; then return 0; fi
    if [ -n "$folder" ] && { [ -d "$folder" ] || [ -e "$venv/.forge-stamp" ]; }; then  # the stamp of older versions
        say "installing the Python packages of $name in $venv (once)"
    elif [ -e "$venv" ] && [ ! -d "$venv/requirements" ] && [ -n "$(ls -A "$venv")" ]; then
        say "$venv was not made by forge: remove it, or set FORGE_VENV to another folder"
        return 3
    else
        say "making the Python environment in $venv (once)"
        make_environment || return 3
    fi
    if install && record; then return 0; fi
    say "could not install the Python packages of $name; the next start tries again"
    return 3
}

mkdir -p "$(dirname -- "$venv")"
(
    # Two first starts at once must not write into each other's environment.
    if command -v flock >/dev/null 2>&1; then flock 9; fi
    set_up
) 9>"$venv.lock" || exit 3
[ $# -eq 0 ] || exec "$@"
