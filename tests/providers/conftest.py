from transports.channels import tried

__all__ = ["tried"]
