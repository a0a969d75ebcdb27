"""The command line: parse, call, render.

Owns arguments, exit codes, streams, and every word that people and scripts read. Refuses decisions: what happens to
a job is in the plan, and this package only asks for it, follows it and says what was seen.

A command's module is imported when that command is called; what is heavy (pydantic, anyio, the store), inside the
function that needs it.
"""
