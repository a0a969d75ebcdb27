"""What must survive the controller: records, leases, requests and events.

Owns durability, compare-and-set and the lease of each job; refuses to know what a record means. One protocol
(`interface.py`), one file per kind of store, one conformance suite over all of them.
"""
