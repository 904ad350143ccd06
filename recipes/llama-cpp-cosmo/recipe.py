from mmojo_forge.recipe import Component, Package, Spec, apply_patches, recipe


@recipe("llama-cpp-cosmo")
def llama_cpp_cosmo(userland: Package, llama_cpp: Package) -> Spec:
    """The source of llama.cpp with our patches, and on top of them those that Cosmopolitan needs.

    They are apart from the others, so that they compile no other server again.
    """
    return apply_patches("llama-cpp-cosmo-patched", llama_cpp, userland=userland).made_of(
        Component("mmojo-server-cosmo", licence="Apache-2.0", of="patches")
    )
