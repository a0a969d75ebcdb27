"""A region of real hosts on this machine, for tests and for trying by hand (`python -m tests.bed`).

A host has an address, a disk, a process tree and an OpenSSH server of its own, and can be cut off, frozen, filled and
switched off. What a host writes stays on its own disk; a region ends with whoever opened it.
"""
