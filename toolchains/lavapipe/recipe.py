from mmojo_forge.recipe import Debian, Files, Package, Spec, build, recipe, unpack

PACKAGES = ("libvulkan1", "mesa-vulkan-drivers")

# The driver with all it is linked to but glibc, of which a process can have only one: that of the program.
LIBRARIES = r"""
libraries=/forge/tree/lib/x86_64-linux-gnu
out=/forge/out/out
mkdir -p "$out/bin" "$out/lib"
"$libraries/ld-linux-x86-64.so.2" --library-path "$libraries" --list "$libraries/libvulkan_lvp.so" > /build/linked
if grep 'not found' /build/linked; then exit 1; fi
awk '$2 == "=>" { print $1 }' /build/linked > /build/names
for name in libvulkan.so.1 libvulkan_lvp.so $(cat /build/names); do
    case $name in libc.so.* | libm.so.* | libdl.so.* | libpthread.so.* | librt.so.*) continue ;; esac
    cp -L "$libraries/$name" "$out/lib/$name"
done
cp /forge/files/lavapipe.json "$out/lib"
cp /forge/files/lavapipe "$out/bin"
chmod 755 "$out/bin/lavapipe"
"""


@recipe("lavapipe.tree")
def tree() -> Spec:
    """Debian 12's loader and Mesa drivers of Vulkan as Debian lays them out; `lavapipe` is what to run with."""
    return unpack(
        "lavapipe-tree",
        Debian("lavapipe", "bookworm", PACKAGES),
        debian_usr=True,
        include=("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"),
        exclude=("usr/lib/x86_64-linux-gnu/gconv", "usr/lib/x86_64-linux-gnu/dri"),
    )


@recipe("lavapipe")
def lavapipe(userland: Package) -> Spec:
    """A Vulkan device made of the CPU (Mesa 22.3's lavapipe) for tests: `bin/lavapipe PROGRAM…` runs one with it."""
    return build(
        "lavapipe-22.3",
        userland=userland,
        inputs={"tree": Package("lavapipe.tree"), "files": Files("files")},
        phases={"libraries": LIBRARIES},
    ).containing("tree")
