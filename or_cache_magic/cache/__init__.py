"""`CompletionCache`: one folder, the asks that go through it, and their results."""
