"""Our own archive extraction: tar, zip and Debian packages into a directory, and nothing outside it."""

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
