"""One live page: traffic, quotas, costs, targets, caches."""
