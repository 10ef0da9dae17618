"""Objects by URL: a folder on a laptop, S3 in production, the same calls."""

from app.storage.store import ObjectMissing, ObjectStore, StoreError, StoreFull, open_store

__all__ = ["ObjectMissing", "ObjectStore", "StoreError", "StoreFull", "open_store"]
