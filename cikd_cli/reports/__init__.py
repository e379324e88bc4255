"""Pictures, pages and cards, from runs on disk."""
