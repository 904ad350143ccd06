"""What a cache is called, and what that opens."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mmojo_forge import extras
from mmojo_forge.cache.failure import CacheError, CacheFault
from mmojo_forge.cache.transport.bazel import BazelTransport
from mmojo_forge.cache.transport.bucket import BucketTransport
from mmojo_forge.cache.transport.folder import FolderTransport
from mmojo_forge.cache.transport.open_transport import open_transport
from mmojo_forge.cache.transport.web import WebTransport
from mmojo_forge.net.settings import HttpSettings
from tests.support.caches import reason

HERE = Path.cwd()


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("/srv/cache", "/srv/cache"),
        ("cache", str(HERE / "cache")),
        ("./a:b", str(HERE / "a:b")),
        ("~/cache", "/home/me/cache"),
        ("~", "/home/me"),
        ("file:///srv/cache", "/srv/cache"),
        ("file:/srv/cache", "/srv/cache"),
        ("file://localhost/srv/a%20cache", "/srv/a cache"),
        ("FILE:///srv/cache", "/srv/cache"),
    ],
)
def test_a_path_or_a_file_url_is_a_folder(url: str, place: str) -> None:
    found = open_transport(url, HttpSettings(), {"HOME": "/home/me"})
    assert isinstance(found, FolderTransport)
    assert found.place == place


def test_a_relative_path_begins_where_it_is_said_to(tmp_path: Path) -> None:
    assert open_transport("cache", base=tmp_path).place == str(tmp_path / "cache")
    assert open_transport("/cache", base=tmp_path).place == "/cache"


@pytest.mark.parametrize(
    ("url", "place", "kind"),
    [
        ("https://cache.invalid/x/", "https://cache.invalid/x", WebTransport),
        ("http://me:secret@cache.invalid:8080/x", "http://cache.invalid:8080/x", WebTransport),
        ("bazel+https://cache.invalid/x/", "bazel+https://cache.invalid/x", BazelTransport),
        ("bazel+http://me:secret@cache.invalid", "bazel+http://cache.invalid", BazelTransport),
        ("s3://bucket/a/b/", "s3://bucket/a/b", BucketTransport),
        ("gs://bucket", "gs://bucket", BucketTransport),
        ("az://container/a", "az://container/a", BucketTransport),
    ],
)
def test_a_scheme_says_what_is_there(url: str, place: str, kind: type) -> None:
    environment = {
        "AWS_SKIP_SIGNATURE": "true",
        "GOOGLE_SKIP_SIGNATURE": "true",
        "AZURE_STORAGE_ACCOUNT_NAME": "me",
        "AZURE_SKIP_SIGNATURE": "true",
    }
    found = open_transport(url, HttpSettings(), environment)
    assert isinstance(found, kind)
    assert found.place == place
    found.close()


@pytest.mark.parametrize(
    "url",
    ["", "ftp://x", "cache.invalid:8080/x", "bazel://x", "bazel+s3://x", "file://host/x", "file:", "file:///x?y",
     "http:/x", "https://", "bazel+http://", "http://x:y", "a\0b", "git+ssh://me:secret@x/y"],
)  # fmt: skip
def test_anything_else_is_refused_and_what_works_is_told(url: str) -> None:
    with pytest.raises(CacheError) as failed:
        open_transport(url, HttpSettings(), {})
    assert (failed.value.reason, failed.value.fault) == ("cache-url", CacheFault.REFUSING)
    assert "secret" not in str(failed.value)


@pytest.mark.parametrize("url", ["ftp://x", "", "bazel://x"])
def test_what_works_is_told(url: str) -> None:
    with pytest.raises(CacheError) as failed:
        open_transport(url, HttpSettings(), {})
    for scheme in ("file:", "https:", "bazel+https:", "s3:", "gs:", "az:"):
        assert scheme in failed.value.detail


def test_a_token_does_not_travel_in_the_clear() -> None:
    settings = HttpSettings(token="secret")
    assert reason(lambda: open_transport("bazel+http://cache.invalid", settings, {})) == "cache-url"
    open_transport("bazel+https://cache.invalid", settings, {}).close()


def test_a_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "MODULES", {"s3": "a_module_that_nobody_has"})
    # In an environment that `./check` made, forge would install it.
    monkeypatch.setattr(sys, "prefix", "/nowhere")
    with pytest.raises(CacheError) as failed:
        open_transport("s3://bucket/x", HttpSettings(), {})
    assert (failed.value.reason, failed.value.fault) == ("cache-url", CacheFault.REFUSING)
    assert failed.value.detail == "Install it with `pip install 'mmojo-forge[s3]'`."


def test_a_folder_needs_no_network_library() -> None:
    """The modules that `place` imports at once, which is what a build without a cache pays for."""

    code = (
        "import sys, mmojo_forge.cache.transport.open_transport;"
        "print(sorted({'requests', 'obstore', 'urllib3', 'zstandard'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
