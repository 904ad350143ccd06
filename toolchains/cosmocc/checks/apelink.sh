# apelink is that of cosmocc 4: -V is the vector of systems, -s leaves symbols out:   apelink.sh TOOLCHAIN PLACE REPORT
place=$2 report=$3 check=apelink
. "$(dirname "$0")/report.sh"

help=$("$place/bin/apelink" -h 2>&1) || unexpected "apelink -h ended with exit code $?"
if ! printf '%s\n' "$help" | grep -q -e '-V BITS'; then
    unexpected 'apelink has no -V BITS: it is older than cosmocc 4'
fi
if printf '%s\n' "$help" | grep -q -e '-s BITS'; then
    unexpected 'the option -s of apelink is the vector of systems: it is older than cosmocc 4'
fi
for option in -l -M -o; do
    if ! printf '%s\n' "$help" | grep -q -e "^ *$option "; then unexpected "apelink has no $option"; fi
done
# What a program made here unpacks its loader as, where no `ape` is in PATH.
loader=$(head -c 8192 "$place/bin/apelink.real" | grep -a -o 'ape-1\.[0-9]*' | head -n 1) || true
found 'loader' "${loader:-none}"
if [ "$loader" != ape-1.10 ]; then unexpected "apelink was made for the loader ${loader:-of no name}, not ape-1.10"; fi
conclude
