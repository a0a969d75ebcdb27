"""What a controller makes of a host: facts become what the planner sees. Nothing is asked here."""
