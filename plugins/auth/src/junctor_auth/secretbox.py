"""Secrets of the store: the pepper of its digests, and the encryption of what must be read again."""

from __future__ import annotations

import hmac
import os
import secrets
import stat
import tempfile
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from junctor import ConfigError

__all__ = ["SecretBox", "digest_of", "new_key", "pepper_beside"]

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_NONCE = 12


def new_key(key_id: str) -> str:
    """A new client key with 256 bits of chance; the id in it is public."""
    return f"jct-{key_id}-{''.join(secrets.choice(_ALPHABET) for _ in range(43))}"


def digest_of(pepper: bytes, key: bytes) -> bytes:
    """The keyed digest (HMAC-SHA256) by which a key is known; of no use without the pepper."""
    return hmac.digest(pepper, key, "sha256")


def pepper_beside(store: Path) -> bytes:
    """The pepper in the file beside a store, made at the first use, readable for its owner only.

    Raises `ConfigError` if others may read it, or it cannot be made.
    """
    file = store.with_name(store.name + ".pepper")
    try:
        if not file.exists():
            _write_once(file)
        if stat.S_IMODE(file.stat().st_mode) & 0o077:
            raise ConfigError(f"store.pepper: others may read {file}; run `chmod 600 {file}`")
        pepper = file.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"store.pepper: {file}: {error.strerror}; give store.pepper from the environment") from error
    if len(pepper) < 32:
        raise ConfigError(f"store.pepper: {file} is damaged; restore it, or no key of the store is known any more")
    return pepper


def _write_once(file: Path) -> None:
    """Several processes may start at once: each writes whole, and the first name wins."""
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=file.name)
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(secrets.token_hex(32).encode())
            handle.flush()
            os.fsync(descriptor)
        try:
            Path(file).hardlink_to(name)
        except FileExistsError:
            return
    finally:
        Path(name).unlink()


class SecretBox:
    """Encrypts with AES-256-GCM under a key derived from a secret; what is sealed opens only under its own name."""

    def __init__(self, secret: str) -> None:
        derived = HKDF(SHA256(), 32, salt=None, info=b"junctor provider keys").derive(secret.encode())
        self._cipher = AESGCM(derived)

    def seal(self, text: str, name: str) -> bytes:
        """Encrypt; `name` says what it is and is bound to it."""
        nonce = os.urandom(_NONCE)
        return nonce + self._cipher.encrypt(nonce, text.encode(), name.encode())

    def open(self, sealed: bytes, name: str) -> str | None:
        """Decrypt; None for what was sealed with another secret or under another name, or was changed."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], name.encode()).decode()
        except (InvalidTag, ValueError):
            return None
