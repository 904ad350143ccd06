"""URLs: how they are shown, whom they name, and where a redirect may lead."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmojo_forge.net.url import Origin, OwnOrigin, RedirectPolicy, is_loopback, origin_of, redacted, redacted_text

PART = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9+._-]{0,12}", fullmatch=True)
HTTPS = st.builds(lambda path: f"https://mirror.example/{'/'.join(path)}", st.lists(PART, min_size=1, max_size=4))
CACHE = OwnOrigin("https://cache.example/x", frozenset({"objects.example"}), "secret")


@settings(deadline=None)
@given(HTTPS)
def test_urls_are_shown_without_what_is_secret(url: str) -> None:
    secret = url.replace("https://", "https://me:hidden@") + "?key=hidden#hidden"
    assert redacted(secret) == url
    assert "hidden" not in redacted_text(f"E: failed {url.replace('https://', 'https://me:hidden@')} again")


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("LOCALHOST:80", True),
        ("127.0.0.1:8080", True),
        ("127.9.9.9", True),
        ("[::1]:80", True),
        ("127.mirror.example", False),
        ("localhost.mirror.example", False),
        ("10.0.0.1", False),
        ("", False),
    ],
)
def test_this_machine_is_known_by_its_addresses(host: str, expected: bool) -> None:
    assert is_loopback(f"http://{host}/x") is expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("HTTPS://Me:pw@Mirror.Example/x", Origin("https", "mirror.example", 443)),
        ("http://mirror.example:8080", Origin("http", "mirror.example", 8080)),
        ("http://", None),
        ("http://x:y", None),
        ("http://[::", None),
        ("file:///etc/passwd", None),
        ("mirror.example", None),
    ],
)
def test_an_origin_is_scheme_host_and_port(url: str, expected: Origin | None) -> None:
    assert origin_of(url) == expected


@pytest.mark.parametrize(
    ("current", "following", "followed"),
    [
        ("http://mirror.example/a", "https://mirror.example/a", True),
        ("https://mirror.example/a", "https://other.example/a", True),
        ("https://mirror.example/a", "http://mirror.example/a", False),
        ("HTTPS://mirror.example/a", "HTTP://mirror.example/a", False),
        ("http://mirror.example/a", "file:///etc/passwd", False),
    ],
)
def test_a_redirect_never_leads_from_https_to_http(current: str, following: str, followed: bool) -> None:
    assert (RedirectPolicy().refusal("GET", current, following) == "") is followed
    assert RedirectPolicy().token(current) == ""


@pytest.mark.parametrize(
    ("method", "following", "followed"),
    [
        ("PUT", "https://cache.example/other", True),
        ("GET", "https://cache.example:443/other", True),
        ("GET", "https://objects.example/x", True),
        ("HEAD", "https://objects.example/x", True),
        ("PUT", "https://objects.example/x", False),
        ("GET", "http://objects.example/x", False),
        ("GET", "http://cache.example/x", False),
        ("GET", "https://cache.example:444/x", False),
        ("GET", "https://objects.example@elsewhere.example/x", False),
        ("GET", "https://[", False),
        ("GET", "file:///etc/passwd", False),
    ],
)
def test_a_cache_redirects_to_itself_and_to_the_hosts_named(method: str, following: str, followed: bool) -> None:
    assert (CACHE.refusal(method, "https://cache.example/x", following) == "") is followed


@pytest.mark.parametrize(
    ("own", "plain", "url", "sent"),
    [
        ("https://cache.example", False, "https://cache.example/x", True),
        ("https://cache.example", False, "https://objects.example/x", False),
        ("https://cache.example", True, "http://cache.example/x", False),
        ("http://cache.example", False, "http://cache.example/x", False),
        ("http://cache.example", True, "http://cache.example/x", True),
        ("http://127.0.0.1:80", False, "http://127.0.0.1/x", True),
        ("http://127.cache.example", False, "http://127.cache.example/x", False),
    ],
)
def test_a_token_goes_to_its_own_server_and_not_in_the_clear(own: str, plain: bool, url: str, sent: bool) -> None:
    policy = OwnOrigin(own, frozenset({"objects.example"}), "secret", plain_token=plain)
    assert policy.token(url) == ("secret" if sent else "")
