"""Marks, redacts, re-routes or refuses sensitive requests, before a target is chosen."""

from junctor_content_policy.patterns import Finding, Scanner
from junctor_content_policy.plugin import ContentPolicy
from junctor_content_policy.redaction import Placeholders, Restorer
from junctor_content_policy.settings import ContentPolicySettings

__all__ = ["ContentPolicy", "ContentPolicySettings", "Finding", "Placeholders", "Restorer", "Scanner"]
