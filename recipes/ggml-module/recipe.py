from mmojo_forge.recipe import Component, Files, Package, Spec, build, recipe


@recipe("ggml-module.check", group="part")
def check(userland: Package) -> Spec:
    """The script that fails a build whose module could not be loaded on every machine that it is for."""
    return (
        build(
            "ggml-module-check",
            userland=userland,
            inputs={"check": Files("check")},
            phases={"install": "cp -R /forge/check /forge/out/out"},
        )
        .made_of(Component("mmojo-server", licence="Apache-2.0", of="check"))
        .containing("check")
    )
