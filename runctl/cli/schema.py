"""`runctl schema`."""

from __future__ import annotations


def schema() -> None:
    """JSON Schema, draft 2020-12. Editors take it from a comment on a manifest's first line:

    # yaml-language-server: $schema=job.v1.json
    """
    from runctl.cli.streams import data
    from runctl.manifest.schema import schema_text

    data(schema_text().rstrip("\n"))
