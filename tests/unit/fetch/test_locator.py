"""The grammar of locators, and URLs as they may be shown."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmojo_forge.fetch import locator as locators
from mmojo_forge.fetch.failure import FetchError
from mmojo_forge.fetch.locator import (
    Archive,
    DebianLocator,
    FileLocator,
    GitLocator,
    Locator,
    NpmLocator,
    PypiLocator,
    UrlLocator,
)

WORD = st.from_regex(r"[a-z][a-z0-9]{0,8}", fullmatch=True)
VERSION = st.from_regex(r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}", fullmatch=True)
PART = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+~-]{0,12}", fullmatch=True)
HTTPS = st.builds(lambda path: f"https://mirror.example/{'/'.join(path)}", st.lists(PART, min_size=1, max_size=4))


def pypi(name: str, version: str, wheel: bool) -> PypiLocator:
    file = f"{name}-{version}-py3-none-any.whl" if wheel else f"{name}-{version}.tar.gz"
    return PypiLocator(name, version, file)


LOCATORS: st.SearchStrategy[Locator] = st.one_of(
    st.builds(pypi, WORD, VERSION, st.booleans()),
    st.builds(
        lambda archive, parts: DebianLocator(archive, "/".join(["pool", *parts])),
        st.sampled_from(Archive),
        st.lists(PART, min_size=1, max_size=5),
    ),
    st.builds(
        lambda scope, name, version: NpmLocator(f"@{scope}/{name}" if scope else name, version),
        st.one_of(st.just(""), WORD),
        WORD,
        VERSION,
    ),
    st.builds(UrlLocator, HTTPS),
    st.builds(GitLocator, HTTPS, st.from_regex(r"[0-9a-f]{40}", fullmatch=True)),
    st.builds(FileLocator, st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,12}", fullmatch=True)),
)


@settings(deadline=None)
@given(LOCATORS)
def test_what_is_written_reads_back_as_the_same(locator: Locator) -> None:
    assert locators.parse(str(locator)) == locator


@settings(deadline=None)
@given(
    st.text(max_size=60),
    st.sampled_from(["", "pypi:", "debian:pool/", "npm:", "url:https://", "git:https://", "file:"]),
)
def test_any_text_is_a_locator_that_reads_back_or_an_error_with_a_reason(text: str, scheme: str) -> None:
    try:
        found = locators.parse(scheme + text)
    except FetchError as error:
        assert error.reason in {"locator-invalid", "locator-credentials"}
    else:
        assert locators.parse(str(found)) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bash",
        "rpm:bash",
        "pypi:ninja==1.0",
        "pypi:ninja/ninja-1.0.tar.gz",
        "pypi:ninja==1.0/ninja-2.0.tar.gz",
        "pypi:ninja==1.0/other-1.0-py3-none-any.whl",
        "pypi:ninja==1.0/../ninja-1.0.tar.gz",
        "debian:dists/bookworm/Release",
        "debian:pool/../dists/x",
        "debian:pool//x",
        "debian:/pool/x",
        "npm:left-pad",
        "npm:left-pad@^1.0.0",
        "npm:@types/../x@1.0.0",
        "url:mirror.example/x",
        "url:https://mirror.example",
        "url:https://mirror.example/a b",
        "url:https://mirror.example/a#b",
        "git:https://mirror.example/x.git",
        "git:https://mirror.example/x.git#main",
        "git:https://mirror.example/x.git#" + "A" * 40,
    ],
)
def test_what_is_no_locator_is_refused(text: str) -> None:
    with pytest.raises(FetchError) as caught:
        locators.parse(text)
    assert caught.value.reason == "locator-invalid"


def test_users_and_passwords_are_refused_and_not_shown() -> None:
    for text in ("url:https://me:hidden@mirror.example/x", f"git:https://hidden@mirror.example/x#{'0' * 40}"):
        with pytest.raises(FetchError) as caught:
            locators.parse(text)
        assert caught.value.reason == "locator-credentials"
        assert "hidden" not in str(caught.value)
