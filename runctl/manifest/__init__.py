"""Text in; jobs, or diagnostics with line and column, out.

Owns the YAML that people write, its model, its cross-field rules, its units, its JSON schema and every message
about a manifest. Refuses files, clocks, randomness and anything that isn't in the text: whether a script exists,
what a machine costs today or what runs already is asked elsewhere.

Imports nothing by itself, so that `runctl.manifest.job` stays cheap: pydantic is loaded by `load` alone.
"""
