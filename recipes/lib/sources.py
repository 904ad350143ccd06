"""Sources that lie in other archives."""

from mmojo_forge.recipe import build


def archive_within(name, archive, path, *, userland):
    """The content of the .tar.gz at `path` in the .tar.gz `archive`, without its top folder."""
    return build(
        name,
        userland=userland,
        inputs={"archive": archive},
        phases={
            "unpack": f"""
mkdir /forge/out/out
tar -xzOf /forge/archive '{path}' | tar -xz --strip-components=1 --no-same-owner -C /forge/out/out
"""
        },
    ).containing("archive")
