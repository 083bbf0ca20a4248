"""The coordinator's side: plans, the hosts that walk them, and the coordinator's own steps."""
