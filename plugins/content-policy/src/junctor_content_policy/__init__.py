"""Marks sensitive requests and decides what follows."""
