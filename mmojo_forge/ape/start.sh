# The shell part of an APE. The linker (script.py) fills in the words between at-signs, drops these comment lines and writes
# the rest behind the PE headers, whose bytes the first line's quote has swallowed.
#
# It runs under dash, bash 3.2 and later, zsh, busybox sh and macOS's sh; `[ -O` is the one thing outside POSIX
# and all of them have it. The two launchers in launcher/ do the same in C; keep names, places and exit codes alike.
# A later start forks twice: uname, and ls for the size of the unpacked copy.
# Everything here is named ape_*: a variable of another name might be an exported one of the user's.
[ -z "${ZSH_VERSION-}" ] || emulate sh

ape_p='@PROGRAM@'
ape_c='' ape_all='' ape_near='' ape_flags=''

ape_die() {
  printf "ape: %s: %s\n" "$ape_p" "$2" >&2
  exit "$1"
}

# The container. Without a slash in its name the shell found it in this folder (sh FILE) or along PATH.
case $0 in
/*) ape_o=$0 ;;
*/*) ape_o=${PWD%/}/${0#./} ;;
*) if [ -f "$0" ]; then ape_o=${PWD%/}/$0; else ape_o=$(command -v -- "$0"); fi ;;
esac
[ -f "$ape_o" ] && [ -r "$ape_o" ] || ape_die 126 "cannot find or read my own file ($0)"

ape_k=$(uname -sm) || ape_die 126 'uname does not work: is PATH set?'
# A translated shell on Apple silicon says x86_64; the machine can do better.
case $ape_k in
'Darwin x86_64') [ "$(sysctl -n hw.optional.arm64 2>/dev/null)" != 1 ] || ape_k='Darwin arm64' ;;
esac
case $ape_k in
'Linux x86_64' | 'Linux amd64') ape_k=linux-x86_64 ;;
'Linux aarch64' | 'Linux arm64') ape_k=linux-aarch64 ;;
'Darwin x86_64') ape_k=macos-x86_64 ;;
'Darwin arm64') ape_k=macos-aarch64 ;;
esac

# The specification's headers: APE loaders read these printf lines, and so does --assimilate. They may hold
# nothing but octal escapes and must lie in the first 8192 bytes of the file.
if [ "$#" = 1 ] && [ "x$1" = x--assimilate ]; then
  # A store's object and its blob are one file with two names; writing to one would spoil the other.
  set -- $(LC_ALL=C ls -lnLd "$ape_o")
  [ "$2" = 1 ] || ape_die 121 'it has several hard links, as in a store: assimilate a copy'
  case $ape_k in
#@HEADERS@
  *) ape_die 127 "no ELF header for $ape_k" ;;
  esac
fi

# Linux says what the CPU can do in the words that slices ask for; read without a fork, up to the first CPU's line.
ape_read_flags() {
  ape_flags=' '
  [ -r /proc/cpuinfo ] || return 0
  while read -r ape_x ape_y; do
    case $ape_x in flags | Features) ape_flags=" ${ape_y#:} " && break ;; esac
  done </proc/cpuinfo
}

# NAME SYSTEM SHA256 BLOCK SIZE FEATURE...: takes the first that fits, or the one that APE_SLICE names.
ape_slice() {
  ape_all="$ape_all $1"
  [ -z "$ape_c" ] && [ "$2" = "$ape_k" ] || return 0
  ape_n=$1 ape_h=$3 ape_b=$4 ape_z=$5
  shift 5
  if [ -n "${APE_SLICE-}" ]; then
    [ "$APE_SLICE" != "$ape_n" ] || ape_c=$ape_n
  else
    [ "$#" = 0 ] || [ -n "$ape_flags" ] || ape_read_flags
    for ape_x; do
      case $ape_flags in
      *" $ape_x "*) ;;
      *)
        ape_near="$ape_n needs $ape_x"
        return 0
        ;;
      esac
    done
    ape_c=$ape_n
  fi
  [ -z "$ape_c" ] || ape_H=$ape_h ape_B=$ape_b ape_Z=$ape_z
}
#@SLICES@

if [ -z "$ape_c" ]; then
  [ -z "${APE_SLICE-}" ] || ape_die 127 "no slice named by APE_SLICE=$APE_SLICE for $ape_k; this file has:$ape_all"
  [ -z "$ape_near" ] || ape_die 126 "this CPU is too old: $ape_near; this file has:$ape_all"
  ape_die 127 "no slice for $ape_k; this file has:$ape_all"
fi

# `wc -c` would do, but busybox's reads the file: 200 ms for a slice of 12 MB. The first five fields of `ls -ln` are POSIX.
ape_size() {
  set -- $(ls -lnd "$1")
  ape_y=${5-}
}

# A copy we wrote ourselves, of the right size, on a file system that lets us start it.
ape_good() {
  [ -f "$ape_f" ] && [ -x "$ape_f" ] && [ -O "$ape_f" ] && ape_size "$ape_f" && [ "$ape_y" = "$ape_Z" ]
}

ape_discard() {
  rm -f "$ape_t"
  rmdir "$ape_d" 2>/dev/null
}

# Into a name of its own, then mv: another start sees the old file or the new one, never half of one.
ape_unpack() {
  ape_e=$((ape_B * 65536 + ape_Z - 1))
  [ "$(($(dd if="$ape_o" bs=1 skip="$ape_e" count=1 2>/dev/null | wc -c)))" = 1 ] ||
    ape_die 126 "truncated: the file ends before slice $ape_c"
  (umask 077 && mkdir -p "$ape_d") 2>/dev/null
  [ -O "$ape_d" ] && [ ! -h "$ape_d" ] && ape_t=$(mktemp "$ape_d/.tmp.XXXXXX" 2>/dev/null) || return 1
  trap 'ape_discard; exit 1' 1 2 13 15
  dd if="$ape_o" bs=65536 skip="$ape_B" count="$(((ape_Z + 65535) / 65536))" 2>/dev/null |
    head -c "$ape_Z" >"$ape_t" 2>/dev/null
  ape_size "$ape_t"
  if [ "$ape_y" != "$ape_Z" ]; then
    ape_discard
    trap - 1 2 13 15
    return 1
  fi
  ape_g=$ape_H
  if command -v sha256sum >/dev/null 2>&1; then
    ape_g=$(sha256sum <"$ape_t")
  elif command -v shasum >/dev/null 2>&1; then
    ape_g=$(shasum -a 256 <"$ape_t")
  fi
  case $ape_g in
  "$ape_H"*) ;;
  *) ape_discard && ape_die 126 "altered: wrong SHA-256 of slice $ape_c" ;;
  esac
  chmod 700 "$ape_t" && mv -f "$ape_t" "$ape_f" || ape_discard
  trap - 1 2 13 15
  ape_good
}

# OWNED FOLDER: makes ape_f name a good copy below FOLDER. OWNED must not be somebody else's: under sudo the HOME
# of the user is kept on some systems, and root must not start what that user could have put there.
ape_place() {
  case $1 in /*) ;; *) return 1 ;; esac
  [ -O "$1" ] || [ ! -e "$1" ] || return 1
  ape_d=$2/$ape_H ape_f=$2/$ape_H/$ape_p
  ape_good || ape_unpack
}

# TMPDIR and /tmp are shared: only a folder of ours that nobody else may write to will do.
ape_place_shared() {
  case $1 in /*) ;; *) return 1 ;; esac
  ape_r=${1%/}/ape-$(id -u)
  [ -d "$ape_r" ] || mkdir -m 700 "$ape_r" 2>/dev/null
  [ -d "$ape_r" ] && [ ! -h "$ape_r" ] && [ -O "$ape_r" ] && chmod 700 "$ape_r" && ape_place "$ape_r" "$ape_r"
}

case ${XDG_CACHE_HOME-} in
/*) ape_place "$XDG_CACHE_HOME" "$XDG_CACHE_HOME/ape" ;;
*) ape_place "${HOME-}" "${HOME-}/.cache/ape" ;;
esac || ape_place_shared "${TMPDIR-}" || ape_place_shared /tmp ||
  ape_die 126 'nowhere to unpack: need a folder of yours with room in XDG_CACHE_HOME, HOME or TMPDIR'

APE_FILE=$ape_o
export APE_FILE
exec "$ape_f" "$@"
exit 126
