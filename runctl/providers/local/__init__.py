"""This computer as a machine: run directories under the home, agents started as detached processes."""
