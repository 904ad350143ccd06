from mmojo_forge.recipe import Files, Host, NpmClosure, Package, Spec, Url, build, node_modules, recipe


@recipe("app", variants={"v3": {"level": "v3"}})
def app(compiler: Package, *, level: str = "v2") -> Spec:
    """A program with a patch, an environment and two outputs."""
    return build(
        f"app-{level}",
        userland=compiler.variant("userland"),
        inputs={
            "compiler": compiler,
            "source": Url("https://example.org/app-1.tar.gz", mirrors=("https://mirror.example/app-1.tar.gz",)),
            "patch": Files("fix.patch"),
        },
        env={"LEVEL": level, "QUOTED": 'a "b" \\ é\n'},
        outputs=("out", "debug"),
        parallel=True,
        phases={"build": "make LEVEL=$LEVEL", "install": "cp app /forge/out/out/"},
    )


@recipe("app.native")
def native(compiler: Package, host: Host) -> Spec:
    """The same for one CPU: labelled."""
    return build(
        "app-native",
        userland=compiler.variant("userland"),
        inputs={"base": Package("app").output("debug")},
        phases={"build": f"echo '{host.fact('cpu.model')}' > /forge/out/out"},
    )


@recipe("app.modules")
def modules() -> Spec:
    """Packages, one of them twice, and a command."""
    lock = Url("https://example.org/app-1.tar.gz", mirrors=("https://mirror.example/app-1.tar.gz",))
    return node_modules("app-modules", NpmClosure("app", lock, "app-1/package-lock.json", exclude=("*-musl",)))
