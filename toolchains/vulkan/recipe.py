from typing import Literal

from mmojo_forge.recipe import Component, Debian, Package, Spec, build, recipe, unpack

PACKAGES = (
    "glslc",
    "libvulkan-dev",
    "spirv-headers",
    "patchelf",  # for this recipe only
)

# glslc's own libraries; libc and libstdc++ are the userland's. Of libvulkan only the headers: which symbols of it are
# needed says whoever links, and the library itself belongs to the machine with the GPU.
INCLUDED = (
    "usr/bin/glslc",
    "usr/bin/patchelf",
    "usr/include/spirv",
    "usr/include/vk_video",
    "usr/include/vulkan",
    "usr/lib/x86_64-linux-gnu/libSPIRV-Tools*.so*",
    "usr/lib/x86_64-linux-gnu/libglslang*.so*",
    "usr/lib/x86_64-linux-gnu/libshaderc*.so*",
    "usr/share/cmake/SPIRV-Headers",
    "usr/share/doc/libvulkan-dev/copyright",
    "usr/share/doc/spirv-headers/copyright",
)

# With its libc and all else that it is linked to.
OWN_INCLUDED = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/*.so*")

# What becomes part of programs, under the names of Debian's packages: vulkan.hpp is code, spirv.hpp numbers.
HEADERS = (
    Component("libvulkan-dev", licence="Apache-2.0 OR MIT", notices=("share/doc/libvulkan-dev/copyright",)),
    Component("spirv-headers", licence="MIT", notices=("share/doc/spirv-headers/copyright",)),
)

LIBRARIES = r"""
cp -a /forge/tree /build/vulkan
chmod -R u+w /build/vulkan
cd /build/vulkan
/forge/tree/bin/patchelf --set-rpath '$ORIGIN/../lib/x86_64-linux-gnu' bin/glslc
for library in lib/x86_64-linux-gnu/*.so*; do
    if [ ! -L "$library" ]; then /forge/tree/bin/patchelf --set-rpath '$ORIGIN' "$library"; fi
done
rm -r bin/patchelf share/doc
bin/glslc --version
"""

# Debian 13's glslc is linked to a newer libc than the userland's, and brings it along, as gcc does.
OWN_LIBRARIES = r"""
libraries=/forge/tree/lib/x86_64-linux-gnu
here() { "$libraries/ld-linux-x86-64.so.2" --library-path "$libraries" "$@"; }
mkdir -p /build/vulkan/bin /build/vulkan/lib /build/vulkan/share
cd /build/vulkan
cp -a /forge/tree/include .
cp -a /forge/tree/share/cmake share
chmod -R u+w .
here --list /forge/tree/bin/glslc > /build/linked
if grep 'not found' /build/linked; then exit 1; fi
for name in ld-linux-x86-64.so.2 $(awk '$2 == "=>" { print $1 }' /build/linked); do
    cp -L "$libraries/${name##*/}" lib
    chmod u+w "lib/${name##*/}"
done
cp /forge/tree/bin/glslc bin
chmod u+w bin/glslc
here /forge/tree/bin/patchelf --set-interpreter /forge/vulkan/lib/ld-linux-x86-64.so.2 \
    --force-rpath --set-rpath '$ORIGIN/../lib' bin/glslc
lib/ld-linux-x86-64.so.2 --library-path lib bin/glslc --version
"""

INSTALL = "cp -a /build/vulkan/. /forge/out/out"


@recipe("vulkan.tree", variants={"tree-1.3": {"version": "1.3.239"}})
def tree(*, version: Literal["1.3.239", "1.4.309"] = "1.4.309") -> Spec:
    """Debian's glslc, headers of Vulkan and SPIR-V as Debian lays them out; `vulkan` is what to build with."""
    if version == "1.3.239":
        name, archive, include = "vulkan-tree", Debian("vulkan", "bookworm", PACKAGES), INCLUDED
    else:
        name, archive, include = "vulkan-1.4-tree", Debian("vulkan-1.4", "trixie", PACKAGES), (*INCLUDED, *OWN_INCLUDED)
    headers = (*HEADERS, Component("glslc", licence="Apache-2.0"))
    return unpack(name, archive, debian_usr=True, include=include).made_of(*headers)


@recipe("vulkan", variants={"1.3": {"version": "1.3.239"}})
def vulkan(userland: Package, *, version: Literal["1.3.239", "1.4.309"] = "1.4.309") -> Spec:
    """Headers of Vulkan and SPIR-V, and glslc, which decides which shaders there are: Debian 13's, or Debian 12's.

    1.4.309 has glslc 2025.2, which knows cooperative matrices and dot products of integers, and is run at
    /forge/vulkan only; 1.3.239 has 2023.2.
    """
    libraries = LIBRARIES if version == "1.3.239" else OWN_LIBRARIES
    return build(
        f"vulkan-{version}",
        userland=userland,
        inputs={"tree": Package("vulkan.tree").with_options(version=version)},
        phases={"libraries": libraries, "install": INSTALL},
    ).containing("tree")
