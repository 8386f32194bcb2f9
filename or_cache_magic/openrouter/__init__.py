"""OpenRouter's wire: send a request, read the reply. The only package that knows ``openai``."""
