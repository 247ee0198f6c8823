"""Made data: sentences with values of every kind, and sentences with what merely looks like one. All of it invented."""

from __future__ import annotations

import random
import string
from dataclasses import dataclass

import phonenumbers
from stdnum import ean, iban, luhn, verhoeff
from stdnum.es import dni, nie
from stdnum.fr import nir

ALNUM = string.ascii_letters + string.digits
FRAMES = (
    "Please update the record: {}",
    "Hello, it is {}, thanks.",
    "({}) was given by the customer",
    "see {} and call me back",
    '{{"value": "{}", "ok": true}}',
    "Kunde hat {} angegeben; bitte prüfen",
    "{}",
    "first line\n{}\nlast line",
)


@dataclass(frozen=True)
class Sample:
    """A text, and the one value in it that is to be found (empty: nothing is)."""

    text: str
    kind: str
    value: str = ""


def letters(rng: random.Random, alphabet: str, size: int) -> str:
    return "".join(rng.choice(alphabet) for _ in range(size))


def secret(rng: random.Random) -> str:
    forms = (
        lambda: "sk-" + letters(rng, ALNUM, 48),
        lambda: "sk-ant-api03-" + letters(rng, ALNUM, 60),
        lambda: "AKIA" + letters(rng, string.ascii_uppercase + string.digits, 16),
        lambda: "ghp_" + letters(rng, ALNUM, 36),
        lambda: "glpat-" + letters(rng, ALNUM, 20),
        lambda: "xoxb-" + letters(rng, string.digits, 12) + "-" + letters(rng, ALNUM, 24),
        lambda: "AIza" + letters(rng, ALNUM, 35),
        lambda: "eyJ" + letters(rng, ALNUM, 20) + ".eyJ" + letters(rng, ALNUM, 40) + "." + letters(rng, ALNUM, 43),
        lambda: "sk_live_" + letters(rng, ALNUM, 24),
        lambda: "hf_" + letters(rng, string.ascii_letters, 34),
        lambda: "a7Q" + letters(rng, ALNUM, 41) + "5x9",
        lambda: f"-----BEGIN PRIVATE KEY-----\n{letters(rng, ALNUM, 64)}\n-----END PRIVATE KEY-----",
    )
    return rng.choice(forms)()


def email(rng: random.Random) -> str:
    name = rng.choice(("jane.roe", "o'neil", "j_doe+news", "info", "müller", "x", "anna-maria.k", "dept.42"))
    host = rng.choice(("example.com", "mail.example.co.uk", "firma-beispiel.de", "bücher.example", "a.b.c.example.org"))
    return f"{name}@{host}"


def card(rng: random.Random) -> str:
    start, size = rng.choice((("4", 16), ("51", 16), ("2221", 16), ("34", 15), ("6011", 16), ("37", 15)))
    body = start + letters(rng, string.digits, size - len(start) - 1)
    number = body + luhn.calc_check_digit(body)
    if size == 15:
        return rng.choice((number, f"{number[:4]} {number[4:10]} {number[10:]}"))
    groups = [number[i : i + 4] for i in range(0, 16, 4)]
    return rng.choice((number, " ".join(groups), "-".join(groups)))


def an_iban(rng: random.Random) -> str:
    country, bank, size = rng.choice(
        (("DE", "", 18), ("GB", "WEST", 14), ("NL", "ABNA", 10), ("FR", "", 23), ("AT", "", 16))
    )
    body = bank + letters(rng, string.digits, size)
    number = country + iban.calc_check_digits(country + "00" + body) + body
    return rng.choice((number, " ".join(number[i : i + 4] for i in range(0, len(number), 4))))


PHONES = tuple(
    phonenumbers.format_number(number, form)
    for region in sorted(phonenumbers.SUPPORTED_REGIONS)
    for type_ in (phonenumbers.PhoneNumberType.MOBILE, phonenumbers.PhoneNumberType.FIXED_LINE)
    if (number := phonenumbers.example_number_for_type(region, type_)) is not None
    for form in (phonenumbers.PhoneNumberFormat.E164, phonenumbers.PhoneNumberFormat.INTERNATIONAL)
)
WRITTEN_PHONES = ("+1 (212) 736-5000", "0049 89 636 48018", "+81-3-3211-3677", "+44 (20) 7946 0958", "+49 30/901820")
IDS = ("AB 12 34 56 C", "36 574 261 809", "RCCMNL83S18D969H", "131052-308T")


def phone(rng: random.Random) -> str:
    return rng.choice((*PHONES, *WRITTEN_PHONES * 10))


def date(rng: random.Random) -> str:
    return f"{rng.randrange(50, 99)}{rng.randrange(1, 13):02}{rng.randrange(1, 29):02}"


def national_id(rng: random.Random) -> str:
    def digits(size: int) -> str:
        return letters(rng, string.digits, size)

    def american() -> str:
        return f"{rng.randrange(1, 666):03}-{rng.randrange(1, 100):02}-{rng.randrange(1, 10000):04}"

    def french() -> str:
        body = f"{rng.choice('12')}{digits(2)}{rng.randrange(1, 13):02}{rng.randrange(1, 96):02}{digits(6)}"
        return body + nir.calc_check_digits(body)

    def spanish() -> str:
        body = digits(8)
        return body + rng.choice(("", "-")) + dni.calc_check_digit(body)

    def foreigner() -> str:
        body = rng.choice("XYZ") + digits(7)
        return body + nie.calc_check_digit(body)

    def swiss() -> str:
        body = "756" + digits(9)
        number = body + ean.calc_check_digit(body)
        return rng.choice((number, f"{number[:3]}.{number[3:7]}.{number[7:11]}.{number[11:]}"))

    def brazilian() -> str:
        body = digits(9)
        for size in (10, 11):
            rest = sum((size - i) * int(d) for i, d in enumerate(body)) * 10 % 11 % 10
            body += str(rest)
        whole = body
        return f"{whole[:3]}.{whole[3:6]}.{whole[6:9]}-{whole[9:]}"

    def finnish() -> str:
        day = date(rng)
        body = f"{day[4:]}{day[2:4]}{day[:2]}-{rng.randrange(2, 900):03}"
        return body + "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(body.replace("-", "")) % 31]

    def swedish() -> str:
        body = date(rng) + digits(3)
        return f"{body[:6]}-{body[6:]}{luhn.calc_check_digit(body)}"

    def indian() -> str:
        body = rng.choice("23456789") + digits(10)
        whole = body + verhoeff.calc_check_digit(body)
        return f"{whole[:4]} {whole[4:8]} {whole[8:]}"

    makers = (american, french, spanish, foreigner, swiss, brazilian, finnish, swedish, indian)
    return rng.choice((*makers, lambda: rng.choice(IDS)))()


MAKERS = {"secret": secret, "email": email, "card": card, "iban": an_iban, "phone": phone, "national_id": national_id}


def samples(kind: str, number: int, seed: int = 7) -> list[Sample]:
    rng = random.Random(f"{kind}{seed}")
    found = []
    for _ in range(number):
        value = MAKERS[kind](rng)
        found.append(Sample(rng.choice(FRAMES).format(value), kind, value))
    return found


def decoys(number: int, seed: int = 7) -> list[Sample]:
    """Texts with nothing to be found: check digits that are wrong, dates, versions, digests, handles, code."""
    rng = random.Random(f"decoys{seed}")

    def wrong_card() -> str:
        number = "4" + letters(rng, string.digits, 14)
        right = luhn.calc_check_digit(number)
        return number + rng.choice([d for d in string.digits if d != right])

    forms = (
        wrong_card,
        lambda: f"DE{rng.randrange(10, 99)}{letters(rng, string.digits, 18)}"[:21],
        lambda: f"2024-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02} 10:{rng.randrange(10, 60)}:00",
        lambda: f"order {rng.randrange(10**7, 10**8)} of batch {rng.randrange(10**5)}",
        lambda: f"version 10.{rng.randrange(100)}.{rng.randrange(1000)}",
        lambda: letters(rng, "0123456789abcdef", 40),
        lambda: "-".join(letters(rng, "0123456789abcdef", n) for n in (8, 4, 4, 4, 12)),
        lambda: f"@{rng.choice(('jane', 'team', 'all'))} please look",
        lambda: "password: required, at least eight characters",
        lambda: "api_key: your_api_key_here",
        lambda: "token = get_token_from_environment",
        lambda: "/usr/lib/python3/dist-packages/some_long_package_name/and_a_module.py",
        lambda: "https://docs.example.com/guides/how-to-write-a-very-long-page-title-in-an-address",
        lambda: (
            f"{rng.randrange(1, 99)},{rng.randrange(100, 999)},{rng.randrange(100, 999)}.{rng.randrange(10, 99)} EUR"
        ),
        lambda: f"{rng.random() * 1000:.12f}",
        lambda: "class AbstractSingletonProxyFactoryBeanBuilderImplementation2 extends Base1",
        lambda: "the task-force met; risk-averse investors asked skilled desk-workers",
        lambda: f"ISBN 978-3-16-148410-{rng.randrange(10)}",
        lambda: f"{rng.randrange(10**8, 10**9)} kg, {rng.randrange(10**10, 10**11)} bytes",
        lambda: "matrix[0][1] = a@b; c @ d",
    )
    return [Sample(rng.choice(FRAMES).format(rng.choice(forms)()), "") for _ in range(number)]
