"""Logs of attempts in this home, as commands read them: of those here, and of those elsewhere as far as they came."""

from runctl.agent.transcript import output_end, read_output, read_setup, setup_end, tail_offset

__all__ = ["output_end", "read_output", "read_setup", "setup_end", "tail_offset"]
