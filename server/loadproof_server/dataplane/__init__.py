"""The served models, protocol-neutral: finds one, checks a request against it, runs it and counts it."""
