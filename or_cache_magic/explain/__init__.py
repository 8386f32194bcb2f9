"""Why an ask missed: the nearest stored request, and the difference."""
