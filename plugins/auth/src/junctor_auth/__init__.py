"""Knows who calls: client keys, JWT, teams, keys that clients bring."""
