"""Checkpoints: formats and their validation, durable copies in directories or objects, retention. Standard library only:
the agent ships it; `s3_client` alone knows botocore, which is delivered beside it.

Refuses to decide when to save, and never executes what it reads (no pickle is loaded).
"""
