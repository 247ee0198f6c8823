"""National identification numbers: how each is written, and its check digits (python-stdnum)."""

from __future__ import annotations

import re
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["COUNTRIES", "Identifier", "identifiers"]

# Every expression begins with a single set of characters: `re` then skips to them at the speed of a table.
_WRITTEN: dict[str, tuple[str, str]] = {
    "us": (r"[0-9][0-9]{2}-[0-9]{2}-[0-9]{4}", "us.ssn"),
    "gb": (r"[A-Z][A-Z] ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D]", ""),
    "de": (r"[0-9][0-9](?: ?[0-9]{3}){3}", "de.idnr"),
    "fr": (r"[12] ?[0-9]{2} ?[0-9]{2} ?[0-9AB]{2} ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}", "fr.nir"),
    "es": (r"[0-9XYZ]-?[0-9]{7}-?[A-Z]", "es.dni es.nie"),
    "it": (r"[A-Z][A-Z]{5}[0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}[A-Z]", "it.codicefiscale"),
    "ch": (r"[7]56\.?[0-9]{4}\.?[0-9]{4}\.?[0-9]{2}", "ch.ssn"),
    "br": (r"[0-9][0-9]{2}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}", "br.cpf"),
    "fi": (r"[0-9][0-9]{5}[-+A][0-9]{3}[0-9A-Y]", "fi.hetu"),
    "se": (r"[0-9][0-9]{5}(?:[0-9]{2})?[-+][0-9]{4}", "se.personnummer"),
    "in": (r"[2-9][0-9]{3} [0-9]{4} [0-9]{4}", "in_.aadhaar"),
    # These are bare digits; a tenth of all such numbers has the right check digit. They are looked for on request.
    "nl": (r"[0-9][0-9]{8}", "nl.bsn"),
    "pl": (r"[0-9][0-9]{10}", "pl.pesel"),
    "dk": (r"[0-9][0-9]{5}-[0-9]{4}", "dk.cpr"),
    "no": (r"[0-9][0-9]{5} ?[0-9]{5}", "no.fodselsnummer"),
    "be": (r"[0-9][0-9]\.?[0-9]{2}\.?[0-9]{2}-?[0-9]{3}\.?[0-9]{2}", "be.nn"),
}
COUNTRIES = frozenset(_WRITTEN)
_NINO = re.compile(r"(?!BG|GB|KN|NK|NT|TN|ZZ)[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z][0-9]{6}[A-D]")


class Identifier(NamedTuple):
    """A country's number: where to look, and whether what was found is one."""

    country: str
    regex: re.Pattern[str]
    valid: Callable[[str], bool]


def identifiers(countries: tuple[str, ...]) -> list[Identifier]:
    """Those of the given countries; only their modules are imported."""
    return [Identifier(c, re.compile(_WRITTEN[c][0]), _checker(_WRITTEN[c][1])) for c in countries]


def _checker(modules: str) -> Callable[[str], bool]:
    if not modules:
        return lambda text: _NINO.fullmatch(text.replace(" ", "")) is not None
    checks = [import_module(f"stdnum.{name}").is_valid for name in modules.split()]
    return lambda text: any(check(text) for check in checks)
