"""Channels to hosts: a subprocess here, SSH elsewhere. One argv runs at the other end, and bytes go both ways."""
