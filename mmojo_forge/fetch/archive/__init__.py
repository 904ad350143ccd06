"""Our own extraction of tar, zip and Debian packages. It is safe for hostile archives: it writes nothing outside.

Read `options` (what a caller can choose, and the limits), `extraction` (entry points and format detection), `unpacking`
(one archive into a tree), `placement` (names to paths, as text), `writer` (paths to files, by descriptors). The parsers
are `tar` and `zip`; `codec` decompresses and `stream` moves the bytes.
"""

from mmojo_forge.fetch.archive.errors import ArchiveError, Reason
from mmojo_forge.fetch.archive.extraction import extract, extract_all, extract_each
from mmojo_forge.fetch.archive.options import ArchiveLimits, ExtractOptions, ExtractReport

__all__ = [
    "ArchiveError",
    "ArchiveLimits",
    "ExtractOptions",
    "ExtractReport",
    "Reason",
    "extract",
    "extract_all",
    "extract_each",
]
