"""Executing bodies: registry, journal, scopes, suspension, committer."""
