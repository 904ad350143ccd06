#!/bin/sh
# debian.sh PACKAGE…: installs Debian packages, as root or with passwordless sudo, where FORGE_INSTALL=yes says that the
# command at hand may. Otherwise it prints the one command that does, and ends with 3. It says all on stderr.
set -eu

say() { printf 'forge: %s\n' "$*" >&2; }

sudo=sudo
if [ "$(id -u)" = 0 ]; then
    sudo=''
elif command -v sudo >/dev/null 2>&1 && sudo -n true 2>/dev/null; then
    sudo='sudo -n'
else
    FORGE_INSTALL=no
fi
if ! command -v apt-get >/dev/null 2>&1; then
    say "needs $*, and this machine has no apt-get: install them by its own means"
    exit 3
fi
if [ "${FORGE_INSTALL:-no}" != yes ]; then
    say "needs Debian packages; run this once:"
    say "    ${sudo:+sudo }apt-get install -y --no-install-recommends $*"
    exit 3
fi
say "installing $* (Debian packages)"
export DEBIAN_FRONTEND=noninteractive
# One try with the package lists that are here, one with fresh ones: they may be missing or stale.
# An empty $sudo is no word at all, and 'sudo -n' is two.
$sudo apt-get install -y -q --no-install-recommends "$@" >/dev/null 2>&1 ||
    { $sudo apt-get update -q >/dev/null 2>&1 &&
        $sudo apt-get install -y -q --no-install-recommends "$@" >&2; } ||
    { say "could not install $*"; exit 3; }
