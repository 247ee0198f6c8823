"""Knows who calls: client keys, JWT, teams, and provider keys that clients bring."""

from junctor_auth.plugin import Auth

__all__ = ["Auth"]
