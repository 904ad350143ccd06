from mmojo_forge.recipe import Files, Package, Spec, package_server, recipe
from recipes.lib.ran import DEBIAN


@recipe("hello-server.ape", group="example", ran={"hello-server.ape": f"{DEBIAN}: completions"})
def hello_server(userland: Package) -> Spec:
    """An example of a server with its model and arguments in it: the generated model, which says nothing sensible."""
    return package_server(
        "hello-server",
        userland=userland,
        program=Package("mmojo-server.ape"),
        server="hello-server",
        models={"tiny.gguf": Package("bench-model.tiny")},
        args=Files("hello-server-args"),
    )
