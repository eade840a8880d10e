"""Buckets of frames that instances share through the store: owned by one of them, or leased by a few tokens."""
