from mmojo_forge.recipe import Debian, Spec, recipe, unpack


@recipe("faketime")
def faketime() -> Spec:
    """Debian 12's libfaketime: `forge check` sets the clock of dynamically linked programs forward with it."""
    return unpack(
        "faketime",
        Debian("faketime", "bookworm", ("libfaketime",)),
        debian_usr=True,
        include=("usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",),
    )
