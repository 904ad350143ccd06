"""Licences as SPDX expressions (SPDX 2.3, annex D), checked against SPDX's own list, which `packaging` carries."""

from __future__ import annotations

import re
from collections.abc import Iterable

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

NOASSERTION = "NOASSERTION"
"""SPDX's word for: nobody said."""

_REFERENCE = re.compile(r"LicenseRef-[A-Za-z0-9.-]+")


def is_expression(licence: str) -> bool:
    """Whether it is a valid expression of licences that SPDX knows, or of LicenseRefs."""
    return bool(canonical(licence))


def canonical(licence: str) -> str:
    """The expression as SPDX spells it, or nothing if it is none: package indexes hold whatever authors wrote."""
    try:
        return str(canonicalize_license_expression(licence))
    except InvalidLicenseExpression:
        return ""


def is_identifier(licence: str) -> bool:
    """Whether it is a single licence of SPDX's list, rather than an expression of several or one that we made up."""
    return is_expression(licence) and " " not in licence and not _REFERENCE.fullmatch(licence)


def references(licence: str) -> list[str]:
    """The LicenseRefs in an expression, which stand for texts outside of SPDX's list."""
    return _REFERENCE.findall(licence)


def all_of(licences: Iterable[str]) -> str:
    """The expression of what consists of parts under these; nothing if one of them is none."""
    expressions = {canonical(one) for one in licences}
    if not all(expressions):
        return ""
    terms = {term for one in expressions for term in _conjuncts(one)}
    return " AND ".join(sorted(terms, key=lambda term: (term.startswith("("), term)))


def _conjuncts(expression: str) -> list[str]:
    """What of the expression holds all at once: its operands of AND, or itself, in brackets, if it is a choice."""
    operands, depth = [""], 0
    for word in expression.replace("(", "( ").replace(")", " )").split():
        depth += (word == "(") - (word == ")")
        if word == "OR" and depth == 0:
            return [f"({expression})"]
        if word == "AND" and depth == 0:
            operands.append("")
        else:
            operands[-1] += f" {word}"
    return [operand.strip().replace("( ", "(").replace(" )", ")") for operand in operands]
