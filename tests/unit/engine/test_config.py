"""The four configuration files: what they may say, what replaces what, and how a mistake in one is told."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import platformdirs
import pytest

from mmojo_forge.engine import locations
from mmojo_forge.engine.cache.settings import CacheSettingsError, table_of
from mmojo_forge.engine.config import Config, ConfigError, TrustTable, read_config
from mmojo_forge.errors import ExitCode

CACHE = '[cache.team]\nurl = "https://cache.example.org"\n'
SETTINGS = ("forge.toml", "config.toml")
LISTS = ("forge.keys", "keys.toml")


class Files:
    """A workspace and a user, each with a folder."""

    def __init__(self, folder: Path) -> None:
        self.workspace, self.user = folder / "workspace", folder / "user"
        self.workspace.mkdir()
        self.user.mkdir()

    def path(self, name: str) -> Path:
        return (self.workspace if name.startswith("forge") else self.user) / name

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.path(name)
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    def read(self) -> Config:
        return read_config(self.workspace, self.user)

    def error(self, name: str, text: str | bytes) -> ConfigError:
        """The error that the file leads to; what can be said of all of them is checked here."""
        path = self.write(name, text)
        return self.refused(path)

    def refused(self, path: Path) -> ConfigError:
        with pytest.raises(ConfigError) as caught:
            self.read()
        error = caught.value
        assert error.path == path
        assert str(path) in error.message
        assert error.message.isprintable()
        assert error.exit_code == ExitCode.INPUT_ERROR
        return error


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_without_files_nothing_is_configured(files: Files) -> None:
    config = files.read()
    assert (config.store, dict(config.caches), config.trust) == ("", {}, TrustTable())
    assert not config.has_revoked_keys


@pytest.mark.parametrize("name", [*SETTINGS, *LISTS])
@pytest.mark.parametrize("text", ["", "# nothing\n", "\ufeff", "\ufeff# nothing\r\n", "\r\n"])
def test_an_empty_file_says_nothing(files: Files, name: str, text: str) -> None:
    files.write(name, text)
    assert files.read().trust == TrustTable()


def test_every_key_there_is(files: Files) -> None:
    files.write(
        "config.toml",
        'store = "s"\n' + CACHE + 'push = "after-build"\nconnections = 2\nredirect_hosts = ["a.org", "B.org", "::1"]\n'
        'enabled = false\ntoken_file = "/t"\ntoken_variable = "T_1"\nca_bundle = "/c"\nplain_token = true\n'
        "[trust]\nagree = 2\nown_only = true\n",
    )
    files.write("keys.toml", '[key.bob]\npublic = "x"\nrevoked = "lost\\nand gone"\n')
    config = files.read()
    team = config.caches["team"]
    assert team.model_dump() == {
        "url": "https://cache.example.org",
        "push": "after-build",
        "connections": 2,
        "redirect_hosts": {"a.org", "b.org", "::1"},
        "enabled": False,
        "token_file": "/t",
        "token_variable": "T_1",
        "ca_bundle": "/c",
        "plain_token": True,
    }
    assert (config.store, config.trust) == ("s", TrustTable(agree=2, own_only=True))
    assert config.has_revoked_keys


class TestPrecedence:
    def test_a_users_cache_replaces_the_workspaces_whole_and_is_asked_first(self, files: Files) -> None:
        files.write("forge.toml", '[cache.a]\nurl = "https://a"\n[cache.b]\nurl = "https://b"\nconnections = 2\n')
        files.write("config.toml", '[cache.c]\nurl = "https://c"\n[cache.b]\nurl = "https://mine"\n')
        caches = files.read().caches
        assert list(caches) == ["c", "b", "a"]
        assert (caches["b"].url, caches["b"].connections) == ("https://mine", 8)

    @pytest.mark.parametrize(
        ("shared", "own", "agree"),
        [("agree = 2", "", 2), ("agree = 2", "agree = 3", 3), ("agree = 2", "own_only = false", 1), ("", "", 1)],
    )
    def test_a_users_policy_replaces_the_workspaces_whole_unless_it_is_empty(
        self, files: Files, shared: str, own: str, agree: int
    ) -> None:
        files.write("forge.toml", f"[trust]\n{shared}\n")
        files.write("config.toml", f"[trust]\n{own}\n")
        assert files.read().trust.agree == agree

    @pytest.mark.parametrize(
        "line", ['token_file = "/t"', 'token_variable = "T"', 'ca_bundle = ""', "plain_token = false"]
    )
    def test_only_a_user_may_name_a_secret(self, files: Files, line: str) -> None:
        error = files.error("forge.toml", CACHE + line)
        assert (error.reason, error.key) == ("settings-malformed", f"cache.team.{line.split(maxsplit=1)[0]}")
        files.write("config.toml", CACHE)
        assert files.read().caches["team"].token_file == ""


class TestUnknown:
    @pytest.mark.parametrize("name", SETTINGS)
    @pytest.mark.parametrize(
        ("text", "key", "suggestion"),
        [
            ('[caches.team]\nurl = "x"', "caches", "[cache.team]"),
            ("[trsut]\nagree = 2", "trsut", "[trust]"),
            ("[Trust]", "Trust", "[trust]"),
            ("[trust.more]", "trust.more", ""),
            ("[trust]\nagre = 2", "trust.agre", "agree"),
            ("[trust]\nown-only = true", "trust.own-only", "own_only"),
            ('[cache.team]\nulr = "x"', "cache.team.ulr", "url"),
            (CACHE + 'token-file = "x"', "cache.team.token-file", "token_file"),
            (CACHE + "[cache.team.enable]", "cache.team.enable", "[cache.team.enabled]"),
            ("zzz = 1", "zzz", ""),
            ("[[caches]]", "caches", "cache"),
            ('"ca\\u001bche" = 1', '"ca\\u001bche"', "cache"),
            ("trust.agre = 1", "trust.agre", "agree"),
        ],
    )
    def test_settings(self, files: Files, name: str, text: str, key: str, suggestion: str) -> None:
        error = files.error(name, text)
        assert (error.reason, error.key, error.suggestion) == ("settings-malformed", key, suggestion)
        assert suggestion in error.message

    @pytest.mark.parametrize("name", LISTS)
    @pytest.mark.parametrize(
        ("text", "key", "suggestion"),
        [
            ('[keys.bob]\npublic = "x"', "keys", "[key.bob]"),
            ('[key.bob]\npublik = "x"', "key.bob.publik", "public"),
            ('[key.bob]\npublic = "x"\nrevoke = "y"', "key.bob.revoke", "revoked"),
            ("[trust]", "trust", ""),
        ],
    )
    def test_lists(self, files: Files, name: str, text: str, key: str, suggestion: str) -> None:
        error = files.error(name, text)
        assert (error.reason, error.key, error.suggestion) == ("keys-malformed", key, suggestion)

    @pytest.mark.parametrize(
        ("name", "text", "where"),
        [
            ("forge.toml", 'store = "x"', "config.toml"),
            ("forge.toml", '[key.bob]\npublic = "x"', "forge.keys"),
            ("keys.toml", CACHE, "forge.toml"),
            ("config.toml", "agree = 2", "[trust]"),
            ("config.toml", 'url = "x"', "[cache.NAME]"),
            ("config.toml", '[trust]\nstore = "x"', "above every table"),
        ],
    )
    def test_what_is_known_elsewhere_is_sent_there(self, files: Files, name: str, text: str, where: str) -> None:
        assert where in files.error(name, text).detail


class TestWrongValues:
    @pytest.mark.parametrize("name", SETTINGS)
    @pytest.mark.parametrize(
        ("text", "key"),
        [
            ("cache = 1", "cache"),
            ("[[cache]]", "cache"),
            ("trust = true", "trust"),
            ("[[trust]]", "trust"),
            ('[cache]\nurl = "x"', "cache.url"),
            ("[cache.team]", "cache.team.url"),
            ("[cache.team]\nurl = 7", "cache.team.url"),
            ('[cache.team]\nurl = ""', "cache.team.url"),
            ("[cache.team]\nurl = 2026-01-31", "cache.team.url"),
            ('[cache.team]\nurl = ["x"]', "cache.team.url"),
            ('[cache.team]\nurl = "a\\u0000b"', "cache.team.url"),
            ('[cache.team]\nurl = "a\\nb"', "cache.team.url"),
            ('[cache.team]\nurl = " https://x"', "cache.team.url"),
            ('[cache.team]\nurl = "~nobody-here/x"', "cache.team.url"),
            (CACHE + 'push = "always"', "cache.team.push"),
            (CACHE + "push = true", "cache.team.push"),
            (CACHE + 'connections = "8"', "cache.team.connections"),
            (CACHE + "connections = 8.0", "cache.team.connections"),
            (CACHE + "connections = true", "cache.team.connections"),
            (CACHE + "connections = 0", "cache.team.connections"),
            (CACHE + "connections = 65", "cache.team.connections"),
            (CACHE + "enabled = 1", "cache.team.enabled"),
            (CACHE + 'enabled = "no"', "cache.team.enabled"),
            (CACHE + 'redirect_hosts = "x.org"', "cache.team.redirect_hosts"),
            (CACHE + "redirect_hosts = [1]", "cache.team.redirect_hosts"),
            (CACHE + 'redirect_hosts = ["https://x.org"]', "cache.team.redirect_hosts"),
            (CACHE + 'redirect_hosts = ["x.org:443"]', "cache.team.redirect_hosts"),
            (CACHE + 'redirect_hosts = [""]', "cache.team.redirect_hosts"),
            (CACHE + 'token_variable = "$TOKEN"', "cache.team.token_variable"),
            (CACHE + "token_file = 1", "cache.team.token_file"),
            ('[cache."a\\u0007"]\nurl = "x"', 'cache."a\\u0007"'),
            ('[cache.""]\nurl = "x"', 'cache.""'),
            ("[trust]\nagree = 0", "trust.agree"),
            ('[trust]\nagree = "2"', "trust.agree"),
            ("[trust]\nown_only = 0", "trust.own_only"),
        ],
    )
    def test_settings(self, files: Files, name: str, text: str, key: str) -> None:
        error = files.error(name, text)
        assert (error.reason, error.key) == ("settings-malformed", key)

    @pytest.mark.parametrize(
        "text", ["store = 1", "store = [1]", 'store = "a\\u0000"', "[store]", 'store = "~nobody-here"']
    )
    def test_the_store(self, files: Files, text: str) -> None:
        assert files.error("config.toml", text).key == "store"

    @pytest.mark.parametrize("name", LISTS)
    @pytest.mark.parametrize(
        ("text", "key"),
        [
            ("key = 1", "key"),
            ("[[key]]", "key"),
            ('[key]\nbob = "x"', "key.bob"),
            ("[key.bob]", "key.bob.public"),
            ("[key.bob]\npublic = 1", "key.bob.public"),
            ('[key.bob]\npublic = "x"\nrevoked = true', "key.bob.revoked"),
        ],
    )
    def test_lists(self, files: Files, name: str, text: str, key: str) -> None:
        error = files.error(name, text)
        assert (error.reason, error.key) == ("keys-malformed", key)

    def test_a_push_that_is_nearly_right_gets_a_suggestion(self, files: Files) -> None:
        assert files.error("forge.toml", CACHE + 'push = "afterbuild"').suggestion == '"after-build"'


class TestVariables:
    """A shell would replace them; forge made a folder of that name."""

    @pytest.mark.parametrize("name", SETTINGS)
    @pytest.mark.parametrize(
        "url", ["$HOME/c", "${HOME}/c", "file:///$USER/c", "https://x/${TEAM}", "a/$1/b", "$(pwd)/c", "https://$H@x"]
    )
    def test_urls(self, files: Files, name: str, url: str) -> None:
        error = files.error(name, f'[cache.team]\nurl = "{url}"\n')
        assert (error.reason, error.key) == ("settings-variable", "cache.team.url")
        assert "~" in error.detail

    @pytest.mark.parametrize("key", ["token_file", "ca_bundle"])
    def test_paths(self, files: Files, key: str) -> None:
        assert files.error("config.toml", f'{CACHE}{key} = "$HOME/t"\n').reason == "settings-variable"
        assert files.error("config.toml", 'store = "$HOME/s"\n').reason == "settings-variable"

    def test_places_on_the_command_line(self, tmp_path: Path) -> None:
        with pytest.raises(CacheSettingsError) as caught:
            table_of("$HOME/c", tmp_path)
        assert caught.value.reason == "settings-variable"

    @pytest.mark.parametrize("url", ["https://x/a%24HOME", "https://x/a$", "a$/b", "https://x/5$-menu"])
    def test_a_dollar_alone_is_a_dollar(self, files: Files, url: str) -> None:
        files.write("config.toml", f'[cache.team]\nurl = "{url}"\n')
        assert files.read().caches["team"].url.endswith(url)


class TestPaths:
    @pytest.mark.parametrize(
        ("url", "absolute"),
        [
            ("c", "{}/c"),
            ("./c", "{}/c"),
            ("../c", "{}/../c"),
            ("/c", "/c"),
            ("~/c", "/home/me/c"),
            ("a/b:c", "{}/a/b:c"),
            ("file:c%20d", "{}/c d"),
            ("file:///c%20d", "file:///c%20d"),
            ("https://x/c", "https://x/c"),
            ("s3://bucket/c", "s3://bucket/c"),
        ],
    )
    @pytest.mark.parametrize("name", SETTINGS)
    def test_a_relative_one_begins_at_the_folder_of_its_file(
        self, files: Files, monkeypatch: pytest.MonkeyPatch, name: str, url: str, absolute: str
    ) -> None:
        monkeypatch.setenv("HOME", "/home/me")
        files.write(name, f'[cache.team]\nurl = "{url}"\n')
        assert files.read().caches["team"].url == absolute.format(files.path(name).parent)

    def test_those_of_secrets_too(self, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/home/me")
        files.write("config.toml", CACHE + 'token_file = "t"\nca_bundle = "~/c"\n')
        team = files.read().caches["team"]
        assert (team.token_file, team.ca_bundle) == (str(files.user / "t"), "/home/me/c")

    @pytest.mark.parametrize(
        ("chosen", "path"), [("", "/w/store"), ("s", "/w/s"), ("~/s", "/home/me/s"), ("/s", "/s"), ("../s", "/w/../s")]
    )
    def test_a_relative_store_begins_at_the_workspace(
        self, monkeypatch: pytest.MonkeyPatch, chosen: str, path: str
    ) -> None:
        monkeypatch.setenv("HOME", "/home/me")
        assert locations.store_path("/w", chosen) == path


@pytest.mark.parametrize("name", [*SETTINGS, *LISTS])
class TestUnreadable:
    @pytest.mark.parametrize(
        ("text", "line", "column"),
        [
            (b"[trust", 1, 7),
            (b"[trust]\nagree 2\n", 2, 7),
            (b"[trust]\r\nagree = \r\n", 2, 9),
            ("\ufeff# ü\nx = 'ü' y\n".encode(), 2, 9),
            (b"[trust]\n[trust]\n", 2, 7),
            (b'x = "a\0b"\n', 1, 7),
            (b"x = '''\nabc", 2, 4),
            (b"<<<<<<< HEAD\n", 1, 1),
            (b"# \xfc\n", 1, 3),
            ("# ü\n# ".encode() + b"\xff\xfe", 2, 3),
            (b"\xff\xfe[\0", 1, 1),
        ],
    )
    def test_what_is_no_toml_is_told_with_line_and_column(
        self, files: Files, name: str, text: bytes, line: int, column: int
    ) -> None:
        error = files.error(name, text)
        assert error.reason.endswith("-malformed")
        assert (error.line, error.column) == (line, column)
        assert f"{error.path}:{line}:{column}: " in error.message

    @pytest.mark.parametrize("text", [b"x = " + b"9" * 5000, b"x = " + b"[" * 100_000, b"x" * (1 << 21)])
    def test_what_is_too_much_is_refused(self, files: Files, name: str, text: bytes) -> None:
        files.error(name, text)

    def make_folder(path: Path) -> None:  # type: ignore[misc]
        path.mkdir()

    def make_circle(path: Path) -> None:  # type: ignore[misc]
        path.symlink_to(path.name)

    def make_lost_link(path: Path) -> None:  # type: ignore[misc]
        path.symlink_to("nowhere")

    def make_pipe(path: Path) -> None:  # type: ignore[misc]
        os.mkfifo(path)

    def make_device(path: Path) -> None:  # type: ignore[misc]
        path.symlink_to("/dev/zero")

    @pytest.mark.parametrize("make", [make_folder, make_circle, make_lost_link, make_pipe, make_device])
    def test_what_is_no_file_is_refused(self, files: Files, name: str, make: Callable[[Path], None]) -> None:
        make(files.path(name))
        assert files.refused(files.path(name)).reason.endswith("-unreadable")

    def test_what_may_not_be_read_is_refused(self, files: Files, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        path = files.write(name, "")
        real = os.open

        def refuse(asked: str | Path, flags: int, mode: int = 0o777) -> int:
            if Path(asked) == path:
                raise PermissionError(13, "Permission denied")
            return real(asked, flags, mode)

        monkeypatch.setattr(os, "open", refuse)
        assert files.refused(path).reason.endswith("-unreadable")

    def test_dev_null_is_an_empty_file(self, files: Files, name: str) -> None:
        files.path(name).symlink_to(os.devnull)
        assert files.read().trust == TrustTable()

    def test_a_file_where_the_folder_should_be_is_no_configuration(self, files: Files, name: str) -> None:
        blocked = files.user / "blocked"
        blocked.write_text("")
        assert read_config(blocked, blocked).trust == TrustTable(), name


class TestNoOpPath:
    """It looks for itself, since importing platformdirs takes as long as all it does; and it may not differ."""

    @pytest.mark.parametrize("home", [None, "", "relative", "/", "/h", "/h/", "/h o/m", "/h/../i"])
    @pytest.mark.parametrize("base", [None, "", "relative", "./x", "~/x", "/", "/x", "/x/", "/x y", "/x:/y"])
    def test_the_users_folder_is_where_platformdirs_says(
        self, monkeypatch: pytest.MonkeyPatch, home: str | None, base: str | None
    ) -> None:
        environment = {name: value for name, value in (("HOME", home), ("XDG_CONFIG_HOME", base)) if value is not None}
        for name in ("HOME", "XDG_CONFIG_HOME"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        found = locations.user_folder(environment)
        expected = platformdirs.PlatformDirs(locations.USER_FOLDER, appauthor=False).user_config_path
        if found is None:
            # The full command asks the user database.
            assert not (base or "").startswith("/")
            assert not (home or "").startswith("/")
        else:
            assert Path(found) == expected

    @pytest.mark.parametrize(
        "text", ["store = 1", "store = ", "[", "\xff", "store = '~nobody-here/x'", "x = " + "[" * 100_000]
    )
    def test_it_leaves_what_is_wrong_to_the_full_command(self, files: Files, text: str) -> None:
        files.write("config.toml", text.encode("latin-1"))
        found = locations.store_folder("/w", {}, str(files.user))
        assert found is None or not os.path.exists(found)
        with pytest.raises(ConfigError):
            files.read()

    @pytest.mark.parametrize("text", [None, "", 'store = ""', 'store = "s"', 'store = "/s"', CACHE])
    def test_it_finds_the_same_store(self, files: Files, text: str | None) -> None:
        if text is not None:
            files.write("config.toml", text)
        found = locations.store_folder("/w", {}, str(files.user))
        assert found == locations.store_path("/w", files.read().store)
        assert locations.store_folder("/w", {"FORGE_STORE": "t"}, str(files.user)) == "/w/t"
