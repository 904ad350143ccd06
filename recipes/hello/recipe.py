from mmojo_forge.recipe import Package, Spec, build, recipe

HELLO = r"""
#include <stdio.h>
int main(int argc, char **argv) {
    printf("hello from %s, %d arguments\n", SYSTEM, argc - 1);
    return argc > 1 ? 7 : 0;
}
"""

TARGETS = {
    "linux-x86_64": "x86_64-linux-musl",
    "linux-aarch64": "aarch64-linux-musl",
    "windows-x86_64": "x86_64-windows-gnu",
    "macos-aarch64": "aarch64-macos",
}


@recipe("hello", variants={system: {"system": system} for system in TARGETS if system != "linux-x86_64"})
def hello(zig: Package, userland: Package, *, system: str = "linux-x86_64") -> Spec:
    """A C program for one system: the thinnest path from a recipe to something that runs."""
    return build(
        f"hello-{system}",
        userland=userland,
        inputs={"zig": zig},
        env={"ZIG_GLOBAL_CACHE_DIR": "/build/zig-cache", "ZIG_LOCAL_CACHE_DIR": "/build/zig-cache"},
        phases={
            "compile": f"""
cat > hello.c <<'END'{HELLO}END
/forge/zig/zig cc -target {TARGETS[system]} -Os -s -DSYSTEM='"{system}"' -o hello hello.c
""",
            "install": "mkdir -p /forge/out/out/bin && cp hello /forge/out/out/bin/hello",
        },
    )
