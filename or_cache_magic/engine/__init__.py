"""The order of events of one ask: look up, one flight, send, store, account."""
