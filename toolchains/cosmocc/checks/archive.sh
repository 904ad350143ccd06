# The zip was unpacked with its symlinks, and has what the recipes use:   archive.sh TREE PLACE REPORT
tree=$1 report=$3 check=archive
. "$(dirname "$0")/report.sh"

links=$(find "$tree" -type l | wc -l)
found 'symlinks' "$((links))"
if [ "$links" = 0 ]; then unexpected 'there are no symlinks: the archive was packed or unpacked without them'; fi
dangling=$(find "$tree" -xtype l | LC_ALL=C sort | head -n 3)
if [ -n "$dangling" ]; then unexpected "symlinks that lead nowhere: $dangling"; fi

for file in bin/apelink bin/fixupobj bin/ape-x86_64.elf bin/ape-aarch64.elf bin/ape-m1.c; do
    if [ ! -f "$tree/$file" ]; then unexpected "there is no $file"; fi
done
for arch in x86_64 aarch64; do
    for file in "bin/$arch-unknown-cosmo-cc" "bin/$arch-unknown-cosmo-c++" "bin/$arch-linux-cosmo-gcc" \
        "bin/$arch-linux-cosmo-ar" "bin/$arch-linux-cosmo-ranlib" "$arch-linux-cosmo/lib/libcosmo.a" \
        "$arch-linux-cosmo/lib/libcxx.a"; do
        if [ ! -e "$tree/$file" ]; then unexpected "there is no $file"; fi
    done
done
if [ -e "$tree/bin/cosmoranlib" ]; then
    if [ -x "$tree/bin/cosmoranlib" ]; then found 'cosmoranlib' 'may be run'; else found 'cosmoranlib' 'may not be run, which is mended'; fi
else
    unexpected 'there is no bin/cosmoranlib'
fi
conclude
