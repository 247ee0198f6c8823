"""One live page: traffic, quotas, costs, targets, caches."""

from __future__ import annotations

from junctor_dashboard.plugin import Dashboard

__all__ = ["Dashboard"]
