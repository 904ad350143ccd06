"""Licences as SPDX expressions, and package URLs."""

from __future__ import annotations

import pytest

from mmojo_forge.engine.sbom import licence
from mmojo_forge.engine.sbom.purl import generic, project_of, purl_of
from mmojo_forge.model.derivation import Source
from mmojo_forge.model.digest import BlobDigest, Sha256


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("mit", "MIT"),
        ("(MIT OR Apache-2.0)", "(MIT OR Apache-2.0)"),
        ("Apache-2.0 WITH LLVM-exception", "Apache-2.0 WITH LLVM-exception"),
        ("LicenseRef-Public-Domain", "LicenseRef-Public-Domain"),
        ("", ""),
        ("BSD", ""),
        ("SEE LICENSE IN README", ""),
        ("MIT AND", ""),
    ],
)
def test_an_expression_is_spelled_as_spdx_does_or_is_none(text: str, canonical: str) -> None:
    assert licence.canonical(text) == canonical


@pytest.mark.parametrize(
    ("text", "single"),
    [("MIT", True), ("MIT AND ISC", False), ("LicenseRef-X", False), ("nonsense", False), ("", False)],
)
def test_only_a_licence_of_spdxs_list_is_an_identifier(text: str, single: bool) -> None:
    assert licence.is_identifier(text) is single


@pytest.mark.parametrize(
    ("parts", "whole"),
    [
        (["MIT", "MIT"], "MIT"),
        (["MIT AND ISC", "MIT"], "ISC AND MIT"),
        (["MIT OR Unlicense", "ISC"], "ISC AND (MIT OR Unlicense)"),
        (["MIT AND (ISC OR 0BSD)", "MIT"], "MIT AND (ISC OR 0BSD)"),
        (["(MIT OR ISC)", "MIT OR ISC"], "(MIT OR ISC)"),
        (["Apache-2.0 WITH LLVM-exception", "Apache-2.0"], "Apache-2.0 AND Apache-2.0 WITH LLVM-exception"),
        (["MIT", ""], ""),
        (["MIT", "nonsense"], ""),
        ([], ""),
    ],
)
def test_a_whole_is_under_the_licences_of_all_its_parts(parts: list[str], whole: str) -> None:
    assert licence.all_of(parts) == whole
    assert not whole or licence.is_expression(whole)


def source(locator: str, name: str = "file") -> Source:
    return Source(name, locator, BlobDigest("b" * 64), 1, Sha256("a" * 64))


SUM = f"checksum=sha256:{'a' * 64}"


@pytest.mark.parametrize(
    ("locator", "name", "version", "purl"),
    [
        ("pypi:Llama_Cpp==1.0/llama_cpp-1.0.tar.gz", "x", "1.0", "pkg:pypi/llama-cpp@1.0"),
        ("npm:@scope/name@1.0.0", "x", "1.0.0", "pkg:npm/%40scope/name@1.0.0"),
        (
            "debian:pool/main/g/gcc-12/g++-12_12.2.0-14_amd64.deb",
            "g++-12",
            "12.2.0-14",
            "pkg:deb/debian/g%2B%2B-12@12.2.0-14?arch=amd64&distro=bookworm",
        ),
        (
            "debian:pool/main/z/zlib/zlib1g_1.2.13.dfsg-1_amd64.deb",
            "zlib1g",
            "1:1.2.13.dfsg-1",
            "pkg:deb/debian/zlib1g@1:1.2.13.dfsg-1?arch=amd64&distro=bookworm",
        ),
        ("debian:pool/main/o/o/openblas_0.3.21+ds.orig.tar.xz", "o.tar.xz", "", f"pkg:generic/o.tar.xz?{SUM}"),
        (
            "url:https://example.org/a.zip",
            "a.zip",
            "2",
            f"pkg:generic/a.zip@2?{SUM}&download_url=https://example.org/a.zip",
        ),
        (
            f"git:https://example.org/r.git#{'c' * 40}",
            "r.tar",
            "",
            f"pkg:generic/r.tar@{'c' * 40}?vcs_url=git%2Bhttps://example.org/r.git%40{'c' * 40}",
        ),
        ("nothing we know", "x", "", f"pkg:generic/x?{SUM}"),
    ],
)
def test_a_source_has_the_package_url_of_its_index(locator: str, name: str, version: str, purl: str) -> None:
    assert purl_of(source(locator, name), version, suite="bookworm") == purl


def test_a_source_is_called_what_its_index_calls_it() -> None:
    assert project_of(source("pypi:ziglang==1.0/ziglang-1.0.tar.gz")) == "ziglang"
    assert project_of(source("npm:@scope/name@1.0.0")) == "@scope/name"
    assert project_of(source("url:https://example.org/a.zip", "a.zip")) == "a.zip"


def test_special_characters_of_names_and_versions_are_escaped() -> None:
    assert generic("libc++", "1+2 3") == "pkg:generic/libc%2B%2B@1%2B2%203"
