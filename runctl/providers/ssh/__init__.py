"""Hosts that the user reaches over SSH, behind the provider protocol."""
