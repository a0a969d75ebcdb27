"""runctl runs training jobs that are declared in YAML, within their cost cap, without losing their checkpoints."""

__version__ = "0.1.0"
