"""Checkpoints: formats and their validation, durable copies, retention. Standard library only: the agent ships it.

Refuses to decide when to save, and never executes what it reads (no pickle is loaded).
"""
