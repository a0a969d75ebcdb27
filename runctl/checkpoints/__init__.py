"""Checkpoints: formats and their validation, durable copies in directories or objects, retention. The agent ships it:
standard library only, but for botocore, which is delivered beside it and known to `s3_client` alone.

Refuses to decide when to save, and never executes what it reads (no pickle is loaded).
"""
