# The compilers for one architecture are shell scripts whose defaults the recipes know:   drivers.sh TREE PLACE REPORT
tree=$1 report=$3 check=drivers
. "$(dirname "$0")/report.sh"

for arch in x86_64 aarch64; do
    for tool in cc c++; do
        driver=$tree/bin/$arch-unknown-cosmo-$tool
        if [ "$(head -c 2 "$driver" 2> /dev/null)" != '#!' ]; then
            unexpected "bin/$arch-unknown-cosmo-$tool is no shell script"
            continue
        fi
        if ! grep -q -e "linux-cosmo-g" "$driver"; then
            unexpected "bin/$arch-unknown-cosmo-$tool does not start ARCH-linux-cosmo-gcc or -g++"
        fi
        if ! grep -q -e 'fixupobj' "$driver"; then
            unexpected "bin/$arch-unknown-cosmo-$tool does not call fixupobj, without which no object can be linked"
        fi
        for flag in -mclang -fno-exceptions -fno-rtti; do
            if grep -q -e "$flag" "$driver"; then found "$arch-$tool $flag" 'mentioned'; else found "$arch-$tool $flag" 'not mentioned'; fi
        done
    done
done
conclude
