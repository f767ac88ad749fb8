"""Serve a classifier: an HTTP API and a page."""
