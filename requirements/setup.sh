# Sourced by ./forge and ./check: makes a Python environment and installs Debian packages. POSIX sh.
# Everything is said on stderr, for stdout belongs to the command that is run afterwards.

forge_say() { printf 'forge: %s\n' "$*" >&2; }

forge_fail() {
    forge_say "$@"
    exit 3
}

# forge_install_debian PACKAGE…: as root or with passwordless sudo; else say the one command and return 1.
forge_install_debian() {
    if [ "$(id -u)" = 0 ]; then
        forge_sudo=''
    elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
        forge_sudo='sudo -n'
    else
        forge_say "needs Debian packages that only root can install; run this once:"
        forge_say "    sudo apt-get install -y --no-install-recommends $*"
        return 1
    fi
    if ! command -v apt-get >/dev/null 2>&1; then
        forge_say "needs $*, and this machine has no apt-get: install them by its own means"
        return 1
    fi
    forge_say "installing $* (Debian packages)"
    # One try with the package lists that are here, one with fresh ones: they may be missing or stale.
    DEBIAN_FRONTEND=noninteractive $forge_sudo apt-get install -y -q --no-install-recommends "$@" >/dev/null 2>&1 ||
        { $forge_sudo apt-get update -q >/dev/null 2>&1 &&
            DEBIAN_FRONTEND=noninteractive $forge_sudo apt-get install -y -q --no-install-recommends "$@" >&2; } ||
        { forge_say "could not install $*"; return 1; }
}

forge_is_python() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

# Sets forge_python to a Python 3.11 or later.
forge_find_python() {
    for forge_python in ${FORGE_PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if forge_is_python "$forge_python"; then return 0; fi
    done
    forge_fail "needs Python 3.11 or later; set FORGE_PYTHON to one"
}

# forge_make_environment VENV REQUIREMENTS STAMP: the pinned packages of REQUIREMENTS, by hash, wheels only.
forge_make_environment() {
    forge_find_python
    if ! "$forge_python" -c 'import ensurepip, venv' 2>/dev/null; then
        forge_install_debian "python3-venv" || exit 3
    fi
    forge_say "making the Python environment in $1 (once)"
    (
        # Two first starts at once must not write into each other's environment.
        command -v flock >/dev/null 2>&1 && flock 9
        if [ "$1/$3" -nt "$2" ]; then exit 0; fi
        [ -x "$1/bin/python" ] && "$1/bin/python" -m pip --version >/dev/null 2>&1 ||
            "$forge_python" -m venv --clear "$1" >&2 || exit 3
        "$1/bin/python" -m pip install -q --no-input --disable-pip-version-check \
            --require-hashes --only-binary :all: --no-deps -r "$2" >&2 || exit 3
        : >"$1/$3"
    ) 9>"$1.lock" || forge_fail "could not install the Python packages of $2"
}
