"""What of a job is refused, and with which words."""
