from .surgery import ActiveReport, Surgery, active, extract_module

__all__ = ["ActiveReport", "Surgery", "active", "extract_module"]
