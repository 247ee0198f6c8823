"""Rate limits, quotas, budgets and fair queues."""
