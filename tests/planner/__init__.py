"""The planner: every policy as a golden story, every plan past the linter, every branch reached."""
