"""Rate limits, quotas, budgets and fair queues."""

from junctor_quotas.plugin import Quotas

__all__ = ["Quotas"]
