"""Retries, falls back and breaks circuits."""
