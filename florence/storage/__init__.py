"""Whole objects under keys: in a folder, or in an S3 bucket. boto3 is imported on first S3 use."""

from florence.storage.folder import FolderStorage
from florence.storage.opening import open_storage
from florence.storage.protocol import Body, Entry, MissingKeyError, Storage, checked_key

__all__ = [
    "Body",
    "Entry",
    "FolderStorage",
    "MissingKeyError",
    "Storage",
    "checked_key",
    "open_storage",
]
