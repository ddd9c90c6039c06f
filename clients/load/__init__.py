"""The load-generating programs: a Locust master and its workers (the only package that imports Locust, which patches Python)."""
