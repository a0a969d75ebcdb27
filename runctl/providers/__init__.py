"""Machines: what is on one, and starting an attempt there.

Owns the ways to reach each kind of machine; refuses to decide when. One protocol (`interface.py`), one file or folder
per kind, one conformance suite over all of them. Foreign errors are translated here and nowhere else.
"""
