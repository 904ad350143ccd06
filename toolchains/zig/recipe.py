from mmojo_forge.recipe import Component, Notice, Pypi, Spec, recipe, unpack

VERSION = "0.15.2"
WHEEL = f"ziglang-{VERSION}-py3-none-manylinux_2_12_x86_64.manylinux2010_x86_64.musllinux_1_1_x86_64.whl"

LLVM = "Apache-2.0 WITH LLVM-exception"
LLVM_VERSION = "20.1.0"
MINGW_VERSION = "13.0.0"

# What zig compiles from source for each target and links into programs.
RUNTIME = (
    Component(
        "compiler-rt",
        VERSION,
        f"MIT AND {LLVM}",  # zig's own, in parts ported from musl and LLVM
        notices=("LICENSE", "lib/libc/musl/COPYRIGHT", "lib/libunwind/LICENSE.TXT"),
    ),
    Component("musl", "1.2.5", "MIT", cpe="musl-libc:musl", notices=("lib/libc/musl/COPYRIGHT",)),
    # Start files and what libc.so leaves out; programs find the C library itself on the system.
    Component("glibc", "2.28", "LGPL-2.1-or-later", cpe="gnu:glibc", notices=("lib/libc/glibc/LICENSES",)),
    Component("libc++", LLVM_VERSION, LLVM, notices=("lib/libcxx/LICENSE.TXT",)),
    Component("libc++abi", LLVM_VERSION, LLVM, notices=("lib/libcxxabi/LICENSE.TXT",)),
    Component("libunwind", LLVM_VERSION, LLVM, notices=("lib/libunwind/LICENSE.TXT",)),
    Component(
        "mingw-w64",
        MINGW_VERSION,
        "ZPL-2.1 AND LicenseRef-Public-Domain",
        cpe="mingw-w64:mingw-w64",
        notices=("lib/libc/mingw/COPYING",),
    ),
    Component(
        "winpthreads",
        MINGW_VERSION,
        "MIT",
        notices=(Notice("lib/libc/mingw/winpthreads/thread.c", "Copyright (c)", "DEALINGS IN THE SOFTWARE."),),
    ),
    Component(
        "gdtoa",
        "",
        "SMLNJ",
        notices=(Notice("lib/libc/mingw/gdtoa/gdtoa.c", "The author of this software", "THIS SOFTWARE."),),
    ),
)


@recipe("zig")
def zig() -> Spec:
    """zig 0.15.2: clang 20, lld, and the C libraries of Linux, Windows and macOS; the binary is static."""
    return unpack(f"zig-{VERSION}", Pypi("ziglang", VERSION, WHEEL), subpath="ziglang").made_of(
        Component("zig", licence="MIT", notices=("LICENSE",)), *RUNTIME
    )
