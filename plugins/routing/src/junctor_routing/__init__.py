"""Chooses the target for each request: rules, constraints, strategies and live figures."""

from junctor_routing.examples import Embedder
from junctor_routing.plugin import Routing
from junctor_routing.settings import RoutingSettings
from junctor_routing.task import Task, classify

__all__ = ["Embedder", "Routing", "RoutingSettings", "Task", "classify"]
