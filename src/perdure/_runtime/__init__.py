"""Services of a process that works: worker, heartbeat, rescuer."""
