"""Licences as SPDX expressions (SPDX 2.3, annex D), checked against SPDX's list, which `packaging` includes."""

from __future__ import annotations

import re
from collections.abc import Iterable

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

NOASSERTION = "NOASSERTION"
"""SPDX's value for: not stated."""

_REFERENCE = re.compile(r"LicenseRef-[A-Za-z0-9.-]+")


def is_expression(licence: str) -> bool:
    """Whether it is a valid expression of SPDX licences or LicenseRefs."""
    return bool(canonical(licence))


def canonical(licence: str) -> str:
    """The expression in SPDX's spelling; empty if it is invalid. Package indexes have whatever authors wrote."""
    try:
        return str(canonicalize_license_expression(licence))
    except InvalidLicenseExpression:
        return ""


def is_identifier(licence: str) -> bool:
    """Whether it is a single licence of SPDX's list, and not a compound expression or a LicenseRef."""
    return is_expression(licence) and " " not in licence and not _REFERENCE.fullmatch(licence)


def references(licence: str) -> list[str]:
    """The LicenseRefs in an expression. They stand for licences outside of SPDX's list."""
    return _REFERENCE.findall(licence)


def all_of(licences: Iterable[str]) -> str:
    """The licence expression of something that combines parts under `licences`; empty if one of them is invalid."""
    expressions = {canonical(licence) for licence in licences}
    if not all(expressions):
        return ""
    terms = {term for expression in expressions for term in _conjuncts(expression)}
    return " AND ".join(sorted(terms, key=lambda term: (term.startswith("("), term)))


def _conjuncts(expression: str) -> list[str]:
    """The operands of the expression's top-level AND. A top-level OR is one operand, in brackets."""
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
