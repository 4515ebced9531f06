"""Manifests and configs for a user's own photographs."""
