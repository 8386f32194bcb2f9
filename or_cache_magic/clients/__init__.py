"""The completion cache behind other clients: their requests come in as they are, and get genuine replies."""
