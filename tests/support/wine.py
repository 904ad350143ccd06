"""Wine, where `./check` puts it: Debian's wine64 is in no folder of PATH."""

from __future__ import annotations

import shutil
from pathlib import Path

_DEBIAN = "/usr/lib/wine/wine64"
WINE = shutil.which("wine64") or (_DEBIAN if Path(_DEBIAN).exists() else shutil.which("wine")) or "wine64"
