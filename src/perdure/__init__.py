"""Work that must finish: durable workflows and typed background jobs on one engine."""
