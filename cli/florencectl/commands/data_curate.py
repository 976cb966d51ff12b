def curate() -> None:
    """x"""
