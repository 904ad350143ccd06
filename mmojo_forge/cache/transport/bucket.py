"""A transport to a bucket: Amazon S3 and compatible stores, Google Cloud Storage, Azure Blob Storage.

It needs the optional library `obstore`, which `open_transport` checks before it imports this module. A bucket has no
folders; a common prefix that ends in a slash acts as one. A conditional write uses `If-None-Match: *` on S3 and
Azure, and a generation on Google Cloud Storage. On a store without conditional writes, `put` looks first.

Credentials come from the machine's identity, or from the environment variables of the stores' own tools:
`AWS_ACCESS_KEY_ID`, `GOOGLE_APPLICATION_CREDENTIALS`, `AZURE_STORAGE_ACCOUNT_KEY` and so on.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import (
    AlreadyExistsError,
    BaseError,
    NotSupportedError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)
from obstore.store import from_url

from mmojo_forge.cache.failure import CacheError, CacheFault, missing
from mmojo_forge.cache.transport.protocol import Body, Listed, Span, check_path
from mmojo_forge.net.settings import HttpSettings, Pace

# Take parts as they arrive. Waiting for longer parts would hide a slow server from `Pace`.
_PART = 1
_RETRIES = 2
_LONGEST = timedelta(hours=1)
# The variables that are passed to obstore, by URL scheme. obstore accepts the variables' names as option names.
_VARIABLES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "s3": frozenset(
            "AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AWS_REGION AWS_DEFAULT_REGION AWS_ENDPOINT_URL"
            " AWS_ENDPOINT AWS_SKIP_SIGNATURE AWS_VIRTUAL_HOSTED_STYLE_REQUEST AWS_CONDITIONAL_PUT"
            " AWS_REQUEST_PAYER AWS_SERVER_SIDE_ENCRYPTION AWS_SSE_KMS_KEY_ID AWS_CHECKSUM_ALGORITHM AWS_ROLE_ARN"
            " AWS_WEB_IDENTITY_TOKEN_FILE".split()
        ),
        "gs": frozenset(
            "GOOGLE_SERVICE_ACCOUNT GOOGLE_SERVICE_ACCOUNT_PATH GOOGLE_SERVICE_ACCOUNT_KEY"
            " GOOGLE_APPLICATION_CREDENTIALS GOOGLE_SKIP_SIGNATURE GOOGLE_BASE_URL GOOGLE_BEARER_TOKEN".split()
        ),
        "az": frozenset(
            "AZURE_STORAGE_ACCOUNT_NAME AZURE_STORAGE_ACCOUNT_KEY AZURE_STORAGE_SAS_TOKEN AZURE_STORAGE_TOKEN"
            " AZURE_CLIENT_ID AZURE_CLIENT_SECRET AZURE_TENANT_ID AZURE_FEDERATED_TOKEN_FILE AZURE_SKIP_SIGNATURE"
            " AZURE_STORAGE_ENDPOINT AZURE_STORAGE_USE_EMULATOR".split()
        ),
    }
)
_ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT", "GOOGLE_BASE_URL", "AZURE_STORAGE_ENDPOINT")
_STATUS = re.compile(r"status code: ([1-5][0-9][0-9])\b")
_KIND = re.compile(r"\bkind: ([A-Z][A-Za-z]+)")


class BucketTransport:
    """The objects under a prefix of a bucket. Raises CacheError (`cache-url`) for an unusable URL."""

    def __init__(
        self,
        url: str,
        settings: HttpSettings | None = None,
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._settings = settings or HttpSettings()
        self._place = _place(url)
        self._conditional = True
        kind = url.partition(":")[0].lower()
        config = {name: value for name, value in environment.items() if name in _VARIABLES.get(kind, ()) and value}
        if kind == "s3":
            # Not every S3-compatible store supports bulk deletion.
            config["AWS_DISABLE_BULK_DELETE"] = "true"
            # Amazon's own tools prefer the variable for S3 to the general one.
            if endpoint := environment.get("AWS_ENDPOINT_URL_S3"):
                config["AWS_ENDPOINT_URL"] = endpoint
        # obstore's types for these options exist for type checkers only, and cannot be imported.
        options: Any = {
            "config": config,
            "client_options": self._client(config),
            "retry_config": {
                "max_retries": _RETRIES,
                "retry_timeout": timedelta(seconds=3 * self._settings.stall_seconds),
            },
        }
        try:
            self._store: Any = from_url(self._place, **options)
        except (BaseError, ValueError, OSError) as error:
            raise CacheError(
                f"use cache {self._place}: {_cause(error)}", reason="cache-url", fault=CacheFault.REFUSING
            ) from error

    @property
    def place(self) -> str:
        """The URL, without a query."""
        return self._place

    @contextmanager
    def open(self, path: str, span: Span | None = None) -> Iterator[Body]:
        """The object or a part of it."""
        options: Any = {"range": (span.start, span.start + span.length)} if span else None
        parts: Iterator[Any]
        try:
            parts = iter(obstore.get(self._store, check_path(path), options=options).stream(min_chunk_size=_PART))
        except (BaseError, OSError) as error:
            if span is None or _status(error) != 416:
                raise self._failed("read", path, error) from error
            # 416: the object ends before the span begins.
            parts = iter(())
        yield _BucketBody(self, path, parts, Pace(self._settings))

    def put(self, path: str, content: bytes, *, if_absent: bool = True) -> bool:
        """Write the object. If the store has no conditional writes, `if_absent` looks first."""
        if if_absent and self._conditional:
            try:
                return self._write(path, content, "create")
            except _Unconditional:
                self._conditional = False
        if if_absent and self.size(path) is not None:
            return False
        return self._write(path, content, "overwrite")

    def size(self, path: str) -> int | None:
        """The object's size."""
        try:
            return int(obstore.head(self._store, check_path(path))["size"])
        except FileNotFoundError:
            return None
        except (BaseError, OSError) as error:
            raise self._failed("look for", path, error) from error

    def entries(self, folder: str) -> list[Listed]:
        """The names that follow the folder's name and a slash."""
        try:
            found = obstore.list_with_delimiter(self._store, check_path(folder))
        except FileNotFoundError:
            return []
        except (BaseError, OSError) as error:
            raise self._failed("list", folder, error) from error
        folders = [Listed(prefix.rstrip("/").rpartition("/")[2], is_folder=True) for prefix in found["common_prefixes"]]
        return folders + [
            Listed(item["path"].rpartition("/")[2], int(item["size"]), item["last_modified"].timestamp())
            for item in found["objects"]
        ]

    def delete(self, path: str) -> None:
        """Remove the object."""
        try:
            obstore.delete(self._store, check_path(path))
        except FileNotFoundError:
            pass
        except (BaseError, OSError) as error:
            raise self._failed("remove", path, error) from error

    def close(self) -> None:
        """Do nothing: obstore closes its connections by itself."""

    def next_part(self, path: str, parts: Iterator[Any]) -> bytes:
        """The next bytes that arrive; empty at the end."""
        try:
            return bytes(next(parts, b""))
        except (BaseError, OSError) as error:
            failed = self._failed("read", path, error)
            if failed.reason in {"cache-unreachable", "cache-server-error"}:
                failed = self.failing(path, _cause(error), "cache-truncated")
            raise failed from error

    def failing(self, path: str, cause: str, reason: str) -> CacheError:
        """The error for a store that fails to answer properly."""
        return CacheError(f"reach {path} in {self._place}: {cause}", reason=reason, fault=CacheFault.FAILING)

    def _write(self, path: str, content: bytes, mode: Literal["create", "overwrite"]) -> bool:
        try:
            obstore.put(self._store, check_path(path), content, mode=mode, use_multipart=False)
            return True
        except (AlreadyExistsError, PreconditionError):
            return False
        except FileNotFoundError as error:
            message = f"write {path} in {self._place}: the bucket does not exist"
            raise CacheError(message, reason="cache-refused", fault=CacheFault.REFUSING) from error
        except (BaseError, NotImplementedError, OSError) as error:
            unknown = isinstance(error, NotSupportedError | NotImplementedError) or _status(error) == 501
            if mode == "create" and unknown:
                raise _Unconditional from error
            raise self._failed("write", path, error) from error

    def _failed(self, verb: str, path: str, error: Exception) -> CacheError:
        if isinstance(error, FileNotFoundError):
            return missing(self._place, path)
        status = _status(error)
        message = f"{verb} {path} in {self._place}: {_cause(error)}"
        if isinstance(error, PermissionDeniedError | UnauthenticatedError) or status in {401, 403, 404}:
            return CacheError(message, reason="cache-refused", fault=CacheFault.REFUSING)
        if status in {405, 501} and verb != "read":
            return CacheError(message, reason="cache-read-only", fault=CacheFault.REFUSING)
        if "Timeout" in _kinds(error) or "TimedOut" in str(error):
            return self.failing(path, "no answer in time", "cache-timeout")
        if status:
            return CacheError(message, reason="cache-server-error", fault=CacheFault.FAILING)
        return self.failing(path, _cause(error), "cache-unreachable")

    def _client(self, config: Mapping[str, str]) -> dict[str, Any]:
        settings = self._settings
        options: dict[str, Any] = {
            "connect_timeout": timedelta(seconds=settings.connect_seconds),
            "read_timeout": timedelta(seconds=settings.stall_seconds),
            # This limit covers a whole answer. `Pace` gives up a slow answer much earlier.
            "timeout": _LONGEST,
            "user_agent": "mmojo-forge",
            # Plain HTTP is allowed only for an endpoint that the user names. Requests are signed and carry no secret.
            "allow_http": any(config.get(name, "").startswith("http:") for name in _ENDPOINTS)
            or config.get("AZURE_STORAGE_USE_EMULATOR", "").lower() in {"1", "true"},
        }
        if settings.ca_bundle:
            try:
                options["root_certificate"] = Path(settings.ca_bundle).read_bytes()
            except OSError as error:
                message = f"use cache {self._place}: read {settings.ca_bundle}: {error.strerror or error}"
                raise CacheError(message, reason="cache-url", fault=CacheFault.REFUSING) from error
        return options


class _Unconditional(Exception):
    """The store has no conditional writes."""


class _BucketBody:
    """The content of an object as it arrives; raises CacheError (`cache-slow`) if that is too slow."""

    def __init__(self, transport: BucketTransport, path: str, parts: Iterator[Any], pace: Pace) -> None:
        self._transport = transport
        self._path = path
        self._parts = parts
        self._pace = pace
        self._rest = b""

    def read(self, count: int, /) -> bytes:
        """The next bytes."""
        if not self._rest and count:
            self._pace.start()
            self._rest = self._transport.next_part(self._path, self._parts)
            if slow := self._pace.stop(len(self._rest)):
                raise self._transport.failing(self._path, slow, "cache-slow")
        part, self._rest = self._rest[:count], self._rest[count:]
        return part


def _place(url: str) -> str:
    try:
        parts = urlsplit(url)
        if parts.hostname:
            return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path.rstrip('/')}"
    except ValueError:
        pass
    raise CacheError("use a cache: the URL names no bucket", reason="cache-url", fault=CacheFault.REFUSING)


def _status(error: Exception) -> int:
    """The HTTP status behind the error, or 0. obstore has it only in the error's text."""
    found = _STATUS.search(str(error))
    return int(found[1]) if found else 0


def _kinds(error: Exception) -> set[str]:
    return set(_KIND.findall(str(error)))


def _cause(error: Exception) -> str:
    """The cause in short. obstore's text can contain whole answers, and URLs with a token in their query."""
    if status := _status(error):
        return f"HTTP {status}"
    first = str(error).partition("\n")[0]
    return re.sub(r"\S*(://|\?)\S*", "…", first)[:200] or type(error).__name__
