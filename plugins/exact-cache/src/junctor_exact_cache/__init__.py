"""Answers a request that was answered before."""
