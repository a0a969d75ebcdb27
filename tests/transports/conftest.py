from .channels import tried

__all__ = ["tried"]
