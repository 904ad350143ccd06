"""The configuration: what the workspace says in forge.toml and forge.keys, the user in config.toml and keys.toml.

    WORKSPACE/forge.toml                 [cache.NAME], [trust]; committed, for everybody who works on this
    WORKSPACE/forge.keys                 [key.NAME]; committed, whom the workspace trusts
    ~/.config/mmojo-forge/config.toml    store, [cache.NAME], [trust]; this user's
    ~/.config/mmojo-forge/keys.toml      [key.NAME]; whom this user trusts

    store = "~/forge-store"              a relative path begins at the workspace
    [cache.team]
    url = "https://cache.example.org/mmojo"     or file:, s3:, bazel+http: …, or a path
    push = "after-build"                        "manual" if left out
    connections = 8
    redirect_hosts = ["objects.example.org"]
    enabled = true
    token_file = "~/.config/mmojo-forge/team.token"    the user's file only, as are the next three
    token_variable = "TEAM_CACHE_TOKEN"
    ca_bundle = "…"
    plain_token = false
    [trust]
    agree = 1           this many builders must say the same of a reproducible output
    own_only = false    count only what was built with the own key

Paths in a `[cache.NAME]` begin at the folder of their file. Whatever forge does not know is an error: a misspelt
`[trsut]` would otherwise trust more than its author meant to. docs/cache.md has all of it, with what replaces what.
"""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import unquote

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from mmojo_forge.engine.locations import USER_KEYS, USER_SETTINGS, WORKSPACE_KEYS, WORKSPACE_SETTINGS
from mmojo_forge.errors import ForgeError

_SECRETS = frozenset({"token_file", "token_variable", "ca_bundle", "plain_token"})
_LARGEST = 1 << 20
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SHELL_VARIABLE = re.compile(r"\$(?:\w+|\{\w*\}?|\()")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_TOML_POSITION = re.compile(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", re.DOTALL)


class ConfigError(ForgeError):
    """A configuration file that cannot be read, or that says what forge does not know or cannot do.

    `line` and `column` are 0 where the file is TOML; `key` is what is wrong in it, as a dotted key; `suggestion` is
    what was probably meant.
    """

    def __init__(
        self,
        path: Path,
        cause: str,
        *,
        reason: str,
        detail: str = "",
        line: int = 0,
        column: int = 0,
        key: str = "",
        suggestion: str = "",
    ) -> None:
        where = f"{path}:{line}:{column}" if line else str(path)
        hint = f"; did you mean {suggestion}?" if suggestion else ""
        super().__init__(f"read {where}: {cause}{hint}", detail=detail, reason=reason)
        self.path = path
        self.line = line
        self.column = column
        self.key = key
        self.suggestion = suggestion


def _plain(text: str) -> str:
    if found := _CONTROL.search(text):
        raise PydanticCustomError("control", "has the control character U+{code}", {"code": f"{ord(found[0]):04X}"})
    return text


def _name(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("name", "is no name")
    return _plain(text)


def _location(text: str) -> str:
    """A path or URL. A shell's variables would be taken literally, and a folder called `$HOME` would be made."""
    if found := _SHELL_VARIABLE.search(_plain(text)):
        raise PydanticCustomError("variable", "has the variable {name}, and forge replaces none", {"name": found[0]})
    if text != text.strip():
        raise PydanticCustomError("space", "begins or ends with a space")
    home = text.partition("/")[0]
    if home.startswith("~") and os.path.expanduser(home) == home:
        raise PydanticCustomError("home", "begins with {name}, and there is no such home folder", {"name": home})
    return text


def _variable(text: str) -> str:
    if text and not re.fullmatch(r"\w+", text):
        raise PydanticCustomError("variable_name", "wants the name of an environment variable, without $")
    return text


def _host(text: str) -> str:
    if not text or re.search(r"[\s/@]|^[^:]*:\d*$", _plain(text)):
        raise PydanticCustomError("host", "wants host names, without scheme, port and path")
    # As URLs are compared.
    return text.lower()


Location = Annotated[str, AfterValidator(_location)]
Name = Annotated[str, AfterValidator(_name)]


class _Table(BaseModel):
    # Strict: "8" is no number, and 1 is not true.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class CacheTable(_Table):
    """One cache as it stands in a file."""

    url: Location = Field(min_length=1)
    push: Literal["manual", "after-build"] = "manual"
    connections: int = Field(default=8, ge=1, le=64)
    # TOML has lists only.
    redirect_hosts: frozenset[Annotated[str, AfterValidator(_host)]] = Field(default=frozenset(), strict=False)
    enabled: bool = True
    token_file: Location = ""
    token_variable: Annotated[str, AfterValidator(_variable)] = ""
    ca_bundle: Location = ""
    plain_token: bool = False

    def anchored(self, folder: Path) -> CacheTable:
        """The same with every path made absolute; relative ones begin at `folder`."""
        paths = {name: _absolute(getattr(self, name), folder) for name in ("token_file", "ca_bundle")}
        return self.model_copy(update={**paths, "url": _absolute_url(self.url, folder)})


class TrustTable(_Table):
    """What counts as known."""

    agree: int = Field(default=1, ge=1)
    own_only: bool = False


class KeyTable(_Table):
    """A key in a list: 32 bytes in base64, and why it no longer counts, if it does not."""

    public: str
    revoked: str = ""


class _WorkspaceSettings(_Table):
    cache: dict[Name, CacheTable] = {}
    trust: TrustTable = TrustTable()


class _UserSettings(_WorkspaceSettings):
    store: Location = ""


class _KeyList(_Table):
    key: dict[Name, KeyTable] = {}


_File = TypeVar("_File", bound=_Table)
_TABLES: Mapping[str, type[_Table]] = MappingProxyType({"cache": CacheTable, "trust": TrustTable, "key": KeyTable})
_WANTED: Mapping[str, str] = MappingProxyType(
    {
        "string_type": "text in quotes",
        "string_too_short": "some text",
        "bool_type": "true or false",
        "int_type": "a whole number",
        "frozen_set_type": "a list of texts",
        "model_type": "a table",
        "dict_type": "a table",
    }
)
# In this order: true is a number to Python.
_KINDS: tuple[tuple[type, str], ...] = (
    (str, "text"),
    (bool, "true or false"),
    (int, "a number"),
    (float, "a number"),
    (list, "a list"),
    (dict, "a table"),
)
_DETAILS: Mapping[str, str] = MappingProxyType(
    {
        "variable": "Write the path or URL itself, or ~ for the home folder. In a URL, %24 is a $ that is meant.",
        "home": "Write the whole path; ./~ is a folder that is called so.",
    }
)


@dataclass(frozen=True, slots=True)
class Config:
    """All four files together. `store` is as the user's file has it; of the caches, those to be asked first are first;
    `keys` has each list by its path."""

    store: str
    caches: Mapping[str, CacheTable]
    trust: TrustTable
    keys: Mapping[Path, Mapping[str, KeyTable]]

    @property
    def has_revoked_keys(self) -> bool:
        """Whether any key in any list no longer counts."""
        return any(table.revoked for tables in self.keys.values() for table in tables.values())


def read_config(workspace: Path, user: Path) -> Config:
    """The configuration of a workspace for the user whose configuration folder is `user`; raises ConfigError
    (`settings-malformed`, `settings-unreadable`, `settings-variable`, `keys-malformed`, `keys-unreadable`)."""
    own_path, shared_path = user / USER_SETTINGS, workspace / WORKSPACE_SETTINGS
    own = _read(own_path, _UserSettings, "settings")
    shared = _read(shared_path, _WorkspaceSettings, "settings")
    for name, table in shared.cache.items():
        secrets = sorted(_SECRETS & table.model_fields_set)
        # Otherwise a workspace could have the user's token sent to whatever URL it likes.
        if secrets and name not in own.cache:
            raise ConfigError(
                shared_path,
                f"cache {_shown(name)} has {secrets[0]}, which is for each user to say",
                detail=f"Put [cache.{_shown(name)}] with its url into {own_path}.",
                reason="settings-malformed",
                key=f"cache.{_shown(name)}.{secrets[0]}",
            )
    caches = {name: table.anchored(user) for name, table in own.cache.items()}
    caches.update((name, table.anchored(workspace)) for name, table in shared.cache.items() if name not in caches)
    # An empty table says nothing, so it replaces nothing.
    trust = own.trust if own.trust.model_fields_set else shared.trust
    lists = workspace / WORKSPACE_KEYS, user / USER_KEYS
    return Config(own.store, caches, trust, {path: read_keys(path) for path in lists})


def read_keys(path: Path) -> dict[str, KeyTable]:
    """The keys of one list by name, none if there is no such file; raises ConfigError (`keys-malformed`,
    `keys-unreadable`)."""
    return _read(path, _KeyList, "keys").key


def explain(error: ValidationError) -> tuple[str, str, str]:
    """Why a table that is in no file is of no use: cause, detail and reason."""
    first = error.errors(include_url=False)[0]
    return _cause(first), _DETAILS.get(first["type"], ""), _reason(first, "settings")


def _read(path: Path, model: type[_File], kind: str) -> _File:
    raw = _parse(path, kind)
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        # A misspelt key is the cause, and the key that is missing for it the consequence.
        first = next((found for found in errors if found["type"] == "extra_forbidden"), errors[0])
    if first["type"] == "extra_forbidden":
        raise _unknown(path, raw, model, kind, [str(part) for part in first["loc"]])
    raise _wrong(path, first, kind)


def _parse(path: Path, kind: str) -> dict[str, Any]:
    data = _content(path, kind)
    try:
        # Some editors begin a file with a byte order mark.
        text = data.decode("utf-8-sig")
        return tomllib.loads(text)
    except UnicodeDecodeError as error:
        line, column = _position(data[: error.start].decode("utf-8", "replace"))
        cause = f"byte 0x{data[error.start]:02X} is not UTF-8"
        raise ConfigError(path, cause, line=line, column=column, reason=f"{kind}-malformed") from error
    except tomllib.TOMLDecodeError as error:
        found = _TOML_POSITION.fullmatch(str(error))
        line, column = (int(found[2]), int(found[3])) if found and found[2] else _position(text)
        cause = f"not TOML: {found[1] if found else error}"
        raise ConfigError(path, cause, line=line, column=column, reason=f"{kind}-malformed") from error
    except (ValueError, RecursionError) as error:
        # A number of thousands of digits; tables within tables without end.
        raise ConfigError(path, f"not usable: {error}", reason=f"{kind}-malformed") from error


def _content(path: Path, kind: str) -> bytes:
    """What is in the file, nothing if there is none; a link that leads nowhere was meant to be one."""
    try:
        # A pipe without a writer would be waited for.
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode) and not os.path.samefile(path, os.devnull):
                raise OSError(errno.EINVAL, "it is no file")
            data = file.read(_LARGEST + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        if not os.path.islink(path):
            return b""
        cause = f"the link leads to {os.readlink(path)}, which is not there"
        raise ConfigError(path, cause, reason=f"{kind}-unreadable") from error
    except OSError as error:
        raise ConfigError(path, error.strerror or str(error), reason=f"{kind}-unreadable") from error
    if len(data) > _LARGEST:
        raise ConfigError(path, f"it has more than {_LARGEST} bytes", reason=f"{kind}-unreadable")
    return data


def _position(before: str) -> tuple[int, int]:
    """Line and column, counted from 1, of what follows the text."""
    return before.count("\n") + 1, len(before) - before.rfind("\n")


def _unknown(path: Path, raw: Any, model: type[_Table], kind: str, place: list[str]) -> ConfigError:
    """The error for a key that is not known there, as a table if it is one."""
    *above, word = place
    known = list((_TABLES[above[0]] if above else model).model_fields)
    near = _nearest(word, known)
    for part in place:
        raw = raw[part]
    table = isinstance(raw, dict)
    # `[caches.team]` is in the file, and `[caches]` need not be.
    below = next(iter(raw), "") if table and raw and all(isinstance(value, dict) for value in raw.values()) else ""
    tail = [below] if below else []
    if table:
        cause = f"unknown table [{_dotted([*place, *tail])}]"
        suggestion = f"[{_dotted([*above, near, *tail])}]" if near else ""
    else:
        cause = f"unknown key {_shown(word)}{f' in [{_dotted(above)}]' if above else ''}"
        suggestion = near
    detail = f"Known {f'in [{_dotted(above)}]' if above else 'there'}: {', '.join(known)}."
    elsewhere = "" if near else _elsewhere(word, model, inside=bool(above))
    return ConfigError(
        path,
        cause,
        detail=f"{elsewhere}\n{detail}" if elsewhere else detail,
        reason=f"{kind}-malformed",
        key=_dotted(place),
        suggestion=suggestion,
    )


def _elsewhere(word: str, model: type[_Table], *, inside: bool) -> str:
    """Where a key that is not known here belongs, if it is known anywhere."""
    files: tuple[tuple[str, type[_Table]], ...] = (
        (WORKSPACE_SETTINGS, _WorkspaceSettings),
        (f"the user's {USER_SETTINGS}", _UserSettings),
        (f"{WORKSPACE_KEYS} or the user's {USER_KEYS}", _KeyList),
    )
    if inside and word in model.model_fields:
        return f"{word} belongs above every table."
    for name, table in _TABLES.items():
        if word in table.model_fields and name in model.model_fields:
            return f"{word} belongs in [{name}]." if name == "trust" else f"{word} belongs in [{name}.NAME]."
    return next((f"{word} belongs in {where}." for where, file in files if word in file.model_fields), "")


def _wrong(path: Path, found: ErrorDetails, kind: str) -> ConfigError:
    """The error for a known key whose value is of no use."""
    place = [str(part) for part in found["loc"] if not isinstance(part, int) and part != "[key]"]
    *above, word = place or [""]
    where = f"{_shown(word)}{f' in [{_dotted(above)}]' if above else ''}"
    suggestion = ""
    detail = _DETAILS.get(found["type"], "")
    if found["type"] == "literal_error" and isinstance(found["input"], str):
        near = _nearest(found["input"], ["manual", "after-build"])
        suggestion = json.dumps(near) if near else ""
    if found["type"] == "missing":
        where, detail = f"[{_dotted(above)}]", detail or f"Say {word} = … in it."
    if found["type"] in {"model_type", "dict_type"} and place[0] in {"cache", "key"}:
        detail = f"Each {place[0]} has a table with a name: [{place[0]}.NAME]."
    return ConfigError(
        path,
        f"{where} {_cause(found)}",
        detail=detail,
        reason=_reason(found, kind),
        key=_dotted(place),
        suggestion=suggestion,
    )


def _cause(found: ErrorDetails) -> str:
    if found["type"] == "missing":
        return f"has no {found['loc'][-1]}"
    if found["type"] in _WANTED:
        return f"wants {_WANTED[found['type']]}, not {_kind(found['input'])}"
    # pydantic's own sentences begin so; ours do not.
    return found["msg"].replace("Input should be", "must be")


def _kind(value: object) -> str:
    if value == "":
        return "nothing"
    return next((word for kind, word in _KINDS if isinstance(value, kind)), "a date or time")


def _reason(found: ErrorDetails, kind: str) -> str:
    return f"{kind}-variable" if found["type"] == "variable" else f"{kind}-malformed"


def _nearest(word: str, known: Iterable[str]) -> str:
    # Only for a typing error.
    import difflib

    return next(iter(difflib.get_close_matches(word.lower().replace("-", "_"), list(known), n=1)), "")


def _dotted(parts: Iterable[str]) -> str:
    return ".".join(_shown(part) for part in parts)


def _shown(name: str) -> str:
    """The key as TOML has it; nothing that a terminal obeys."""
    return name if _BARE_KEY.fullmatch(name) else json.dumps(name)


def _absolute(path: str, folder: Path) -> str:
    return str(folder / os.path.expanduser(path)) if path else ""


def _absolute_url(url: str, folder: Path) -> str:
    """A URL as it is, and a path, also one behind `file:`, made absolute."""
    scheme, colon, rest = url.partition(":")
    if not colon or "/" in scheme:
        return _absolute(url, folder)
    if scheme.lower() == "file" and rest and not rest.startswith("/"):
        return _absolute(unquote(rest), folder)
    return url
