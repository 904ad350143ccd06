from mmojo_forge.recipe import Component, Files, Package, Spec, build, recipe


@recipe("ui-complete")
def ui_complete(userland: Package) -> Spec:
    """Our own page on which the model continues a text: a folder that any web server can serve."""
    return (
        build(
            "ui-complete",
            userland=userland,
            inputs={"page": Files("page")},
            phases={"install": "cp -r /forge/page /forge/out/out"},
        )
        .made_of(Component("ui-complete", licence="Apache-2.0", of="page"))
        .containing("page")
    )
