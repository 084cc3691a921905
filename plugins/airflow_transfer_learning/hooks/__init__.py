"""Connections to what the pipelines use."""
