"""The async shell around the planner: observe, plan, persist, execute, again.

Owns the queue of jobs, the leases this process holds, and the background controller. Makes no decisions of its own:
what to do is in the plan, and an event is only a reason to make the next one.
"""
