from __future__ import annotations

import reproducible  # noqa: F401
