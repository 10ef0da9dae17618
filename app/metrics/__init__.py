"""Prometheus metrics, on a port of their own: calls by the API's process, everything else by the dispatcher."""
