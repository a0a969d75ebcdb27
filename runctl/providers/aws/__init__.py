"""Amazon EC2 behind the cloud protocol.

Owns what is asked of EC2 and what its answers mean. Requests leave through one port, `Call`, an operation's name with
its parameters: what is behind it (a client of the real service, a simulated one) is nothing to this package.
"""
