"""The plugin's section of the YAML file."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time
from typing import Annotated, Literal

from junctor import Duration, PluginSettings, Section
from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator

__all__ = [
    "ALGORITHMS",
    "NAME",
    "AuthSettings",
    "ByokRule",
    "ClientSettings",
    "JWTSettings",
    "Moment",
    "NewKey",
    "Rights",
    "StoreSettings",
    "TeamSettings",
    "key_family",
]

NAME = r"^[A-Za-z0-9][A-Za-z0-9_.@:/ -]{0,63}$"
Name = Annotated[str, Field(pattern=NAME)]
ByokRule = Literal["off", "allowed", "required"]
Attribution = Literal["feature", "project", "end_user"]

# An algorithm belongs to one kind of key; a public key is never taken for a shared secret.
ALGORITHMS = {
    "HS256": "oct",
    "HS384": "oct",
    "HS512": "oct",
    "RS256": "RSA",
    "RS384": "RSA",
    "RS512": "RSA",
    "PS256": "RSA",
    "PS384": "RSA",
    "PS512": "RSA",
    "ES256": "EC",
    "ES384": "EC",
    "ES512": "EC",
    "EdDSA": "OKP",
}


def key_family(algorithm: str) -> str:
    """The kind of key that an algorithm works with (RFC 7518 6.1: `kty`); empty for one that is not known."""
    return ALGORITHMS.get(algorithm, "")


def _moment(value: object) -> object:
    """A date or a time without a zone is UTC's; a date ends as it begins, at midnight."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime.combine(value, time())
    if isinstance(value, datetime) and value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    return value


Moment = Annotated[datetime, BeforeValidator(_moment)]


class Rights(Section):
    """What a key may do, and whose it is."""

    team: Annotated[str, Field(description="The team that owns the key.")] = ""
    project: str = ""
    feature: str = ""
    tier: Annotated[str, Field(description="Named by the rules of quotas and routing.")] = ""
    models: Annotated[list[str] | None, Field(description="May be asked for; `*` is any text. All without it.")] = None
    endpoints: Annotated[
        list[str] | None, Field(description="`chat`, `completions`, `embeddings` … All without it.")
    ] = None
    tags: dict[str, str] = Field(default_factory=dict, description="Free attributes, such as a cost centre.")
    allow_attribution: list[Attribution] = Field(
        default_factory=list, description="What the client may tell itself where the key is silent."
    )
    byok: Annotated[
        ByokRule | None, Field(description="Provider keys of the client's own; the team's rule without it.")
    ] = None

    @field_validator("team", "project", "feature", "tier")
    @classmethod
    def _is_a_name(cls, value: str) -> str:
        if value and not re.match(NAME, value):
            raise ValueError("use up to 64 letters, digits and _ . @ : / -")
        return value


class NewKey(Rights):
    """What is asked for when a key of the store is made."""

    name: Name
    expires: Moment | None = None
    expires_in: Annotated[Duration | None, Field(gt=0)] = None

    @model_validator(mode="after")
    def _ends_once(self) -> NewKey:
        if self.expires is not None and self.expires_in is not None:
            raise ValueError("give expires or expires_in, not both")
        return self

    @property
    def rights(self) -> Rights:
        return Rights(**{name: getattr(self, name) for name in Rights.model_fields})

    def ends(self, now: float) -> float | None:
        """When it ends, in seconds since the epoch."""
        if self.expires_in is not None:
            return now + self.expires_in
        return self.expires.timestamp() if self.expires is not None else None


class ClientSettings(Rights):
    """One client key: its value by environment, or its SHA-256."""

    name: Annotated[Name, Field(description="Names the key in logs and reports.")]
    key: Annotated[SecretStr | None, Field(min_length=16, description="As `${SEARCH_KEY}`; 16 characters or more.")] = (
        None
    )
    key_sha256: Annotated[
        str | None, Field(pattern=r"^[0-9a-fA-F]{64}$", description="The key's SHA-256, in hexadecimal digits.")
    ] = None
    expires: Annotated[Moment | None, Field(description="A date or a time; UTC without a zone.")] = None

    @model_validator(mode="after")
    def _has_one_key(self) -> ClientSettings:
        if (self.key is None) == (self.key_sha256 is None):
            raise ValueError("give key (as `${NAME}`) or key_sha256")
        return self


class StoreSettings(Section):
    """Keys in SQL, made and revoked while the gateway runs."""

    url: Annotated[SecretStr, Field(description="`sqlite:///FILE` or `postgresql://user:password@host/database`.")] = (
        SecretStr("sqlite:///junctor-keys.sqlite")
    )
    pepper: Annotated[
        SecretStr | None,
        Field(min_length=32, description="Secret of the keys' digests; beside SQLite a file is made for it."),
    ] = None
    encryption_key: Annotated[
        SecretStr | None, Field(min_length=32, description="Secret that encrypts the teams' provider keys.")
    ] = None
    poll: Annotated[Duration, Field(gt=0, le=0.6, description="Between two looks for what has changed.")] = 0.4
    grace: Annotated[Duration, Field(description="How long known keys are taken while the store does not answer.")] = (
        0.0
    )
    max_keys: Annotated[int, Field(gt=0, description="Keys at the most; all are kept in memory.")] = 200_000

    @field_validator("url")
    @classmethod
    def _is_known(cls, url: SecretStr) -> SecretStr:
        text = url.get_secret_value()
        if not re.match(r"(sqlite:///.|postgres(ql)?(\+psycopg)?://.)", text) or ":memory:" in text:
            raise ValueError("write sqlite:///FILE or postgresql://user:password@host/database")
        return url

    @model_validator(mode="after")
    def _has_a_pepper(self) -> StoreSettings:
        if self.pepper is None and not self.url.get_secret_value().startswith("sqlite"):
            raise ValueError("pepper: PostgreSQL is shared by many; give the secret, as `pepper: ${JUNCTOR_PEPPER}`")
        return self


class ClaimSettings(Section):
    """Which claim of a token tells what; `a.b` is the claim b in the claim a."""

    key_id: Annotated[str, Field(description="Who calls; limits per key count by it.")] = "sub"
    name: str = "sub"
    team: str = ""
    project: str = ""
    feature: str = ""
    tier: str = ""
    models: Annotated[str, Field(description="A list, or words with spaces between.")] = ""
    endpoints: str = ""
    end_user: str = ""


class JWTSettings(Rights):
    """Tokens of one issuer. The rights beside are the upper bound and the defaults of every token."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9-]{1,32}$", description="Begins the key ids: `jwt:alice`.")] = "jwt"
    issuer: Annotated[str, Field(min_length=1, description="Must equal the claim `iss`.")]
    audience: Annotated[str | list[str], Field(min_length=1, description="One of these must be in the claim `aud`.")]
    algorithms: list[str] = Field(
        default_factory=lambda: ["RS256"], min_length=1, description=f"Of {', '.join(ALGORITHMS)}."
    )
    jwks_url: Annotated[str | None, Field(description="Where the issuer publishes its keys.")] = None
    jwks_file: Annotated[str | None, Field(description="A file with the same.")] = None
    public_key: Annotated[str | None, Field(description="A file with one public key in PEM.")] = None
    secret: Annotated[SecretStr | None, Field(min_length=32, description="Shared secret, for HS… only.")] = None
    leeway: Annotated[Duration, Field(le=300, description="Difference of the clocks that is forgiven.")] = 10.0
    required: list[str] = Field(
        default_factory=list, description="Claims that a token must have besides exp, iss and aud."
    )
    claims: ClaimSettings = ClaimSettings()
    refresh: Annotated[Duration, Field(ge=1, description="Between two fetches of jwks_url.")] = 600.0
    stale: Annotated[Duration, Field(description="How old the keys may become while they cannot be fetched.")] = 86400.0
    min_refresh: Annotated[
        Duration, Field(ge=0.1, description="Shortest time between fetches for a key that is not known.")
    ] = 10.0

    @field_validator("jwks_url")
    @classmethod
    def _is_safe(cls, url: str | None) -> str | None:
        if url is not None and not re.match(r"https://|http://(localhost|127\.0\.0\.1|\[::1\])[:/]", url):
            raise ValueError("must begin with https:// (http:// only for this machine)")
        return url

    @model_validator(mode="after")
    def _fits(self) -> JWTSettings:
        given = [name for name in ("jwks_url", "jwks_file", "public_key", "secret") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("give one of jwks_url, jwks_file, public_key, secret")
        for algorithm in self.algorithms:
            family = key_family(algorithm)
            if not family:
                raise ValueError(f"algorithms: '{algorithm}' is not one of {', '.join(ALGORITHMS)}")
            if (family == "oct") != (self.secret is not None):
                raise ValueError(f"algorithms: {algorithm} cannot be used with {given[0]}")
            if self.secret is not None and len(self.secret.get_secret_value()) * 8 < int(algorithm[2:]):
                raise ValueError(f"secret: is too short for {algorithm}")
        return self


class TeamSettings(Section):
    """What holds for all keys of a team."""

    byok: Annotated[ByokRule, Field(description="Whether clients may send provider keys of their own.")] = "off"
    provider_keys: dict[str, SecretStr] = Field(default_factory=dict, description="The team's own keys, by provider.")


def _store(value: object) -> object:
    if isinstance(value, str):
        return {"url": value}
    return {} if value is True else value


def _issuers(value: object) -> object:
    return [value] if isinstance(value, dict) else value


class AuthSettings(PluginSettings):
    """Who may call. With no clients, no store and no jwt everyone may, and the server stays on loopback."""

    clients: list[ClientSettings] = Field(default_factory=list, description="Client keys of the file.")
    store: Annotated[
        StoreSettings | None, BeforeValidator(_store), Field(description="Keys in SQL: `true`, a URL, or settings.")
    ] = None
    jwt: Annotated[list[JWTSettings], BeforeValidator(_issuers)] = Field(
        default_factory=list, description="Tokens, by issuer."
    )
    teams: dict[str, TeamSettings] = Field(default_factory=dict, description="Rules for teams, by name.")
    admin_key: Annotated[
        SecretStr | None, Field(min_length=16, description="For /admin/keys, instead of admin.key.")
    ] = None
    admin_host: str = "127.0.0.1"
    admin_port: Annotated[int | None, Field(ge=0, le=65535, description="Serve /admin/keys on a port of its own.")] = (
        None
    )

    @model_validator(mode="after")
    def _is_whole(self) -> AuthSettings:
        self._names_differ()
        if self.admin_port is not None and self.store is None:
            raise ValueError("admin_port: needs a store")
        if self.admin_port is not None and self.admin_key is None:
            raise ValueError("admin_port: needs admin_key")
        return self

    def _names_differ(self) -> None:
        names = [client.name for client in self.clients]
        issuers = [issuer.issuer for issuer in self.jwt]
        prefixes = [issuer.name for issuer in self.jwt]
        for kind, given in (("clients", names), ("jwt", issuers), ("jwt.name", prefixes)):
            twice = {name for name in given if given.count(name) > 1}
            if twice:
                raise ValueError(f"{kind}: '{min(twice)}' is given twice")
