"""`cache-info.json`, a cache's description of itself. forge checks the schema and displays the rest; it trusts nothing.

{"digest":"blake3","keys":["NAME:BASE64",…],"pack_bytes":4194304,"schema":1}
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from mmojo_forge.cache.failure import CacheError, lying
from mmojo_forge.cache.format import layout
from mmojo_forge.cache.transport.protocol import Transport, read_whole
from mmojo_forge.errors import ForgeError
from mmojo_forge.model import canonical
from mmojo_forge.model.signature import PublicKey

PACK_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class CacheInfo:
    """The description. `keys` are suggestions: a user should ask the keys' owners before trusting them."""

    keys: tuple[PublicKey, ...] = ()
    pack_bytes: int = PACK_BYTES

    def encode(self) -> bytes:
        """The content of the file."""
        document: canonical.Json = {
            "schema": layout.SCHEMA,
            "digest": "blake3",
            "pack_bytes": self.pack_bytes,
            "keys": [str(key) for key in self.keys],
        }
        return canonical.encode(document) + b"\n"


def read_info(transport: Transport) -> CacheInfo:
    """The cache's description; raises CacheError (`cache-missing` where there is none, `cache-schema`)."""
    encoded = read_whole(transport, layout.INFO, layout.MAX_INFO)
    try:
        document = json.loads(encoded)
        schema, digest = document["schema"], document["digest"]
        if (schema, digest) != (layout.SCHEMA, "blake3"):
            cause = f"schema {schema!r} with {digest!r} is not {layout.SCHEMA} with 'blake3'"
            raise lying(transport.place, layout.INFO, cause, "cache-schema")
        keys = tuple(PublicKey.parse(str(key)) for key in document["keys"])
        return CacheInfo(keys, min(int(document["pack_bytes"]), layout.MAX_PACK // 2))
    except CacheError:
        raise
    except (ValueError, KeyError, TypeError, RecursionError, ForgeError) as error:
        raise lying(transport.place, layout.INFO, f"malformed: {error!r}"[:200], "cache-malformed") from error
