# APEs start in the sandbox, by the loader that is first in PATH, and none unpacks itself:   sandbox.sh TOOLCHAIN PLACE REPORT
place=$2 report=$3 check=sandbox
. "$(dirname "$0")/report.sh"

case $TMPDIR in *' '*) unexpected "TMPDIR has a space: $TMPDIR" ;; esac
first=$(command -v ape) || first=none
found 'loader in PATH' "$first"
if [ "$first" != "$place/ape/ape" ]; then unexpected "the first \`ape\` in PATH is $first, not $place/ape/ape"; fi

# A program that is run may lie in TMPDIR: the file system must allow that.
probe=$TMPDIR/probe.$$
printf '#!/bin/sh\necho runs\n' > "$probe"
chmod 755 "$probe"
if [ "$("$probe" 2>&1)" != runs ]; then unexpected "programs in $TMPDIR may not be run"; fi
rm "$probe"

# Behind the shim; by a shell that takes it for a script, which looks for `ape` in PATH; and by the loader alone.
for way in "$place/bin/apelink" "sh $place/bin/apelink.real" "$place/ape/ape $place/bin/apelink.real"; do
    if $way -v > /dev/null 2>&1; then found "$way" 'starts'; else unexpected "'$way -v' ends with exit code $?"; fi
done
for folder in "$TMPDIR" "$HOME"; do
    if [ -n "$(find "$folder" -maxdepth 1 -name '.ape-*' 2> /dev/null)" ]; then
        unexpected "a loader was unpacked into $folder, though one is in PATH"
    fi
done
conclude
