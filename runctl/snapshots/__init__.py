"""Frozen code: what a snapshot holds, where it lies, and its copy into an attempt. Standard library only: it is shipped
to hosts with the agent, and runs on Python 3.9.

Refuses to say what belongs to a job's code: `workspace` takes snapshots.
"""
