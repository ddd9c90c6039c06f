"""The load-generating programs, a Locust master and its workers: all that imports Locust, which patches Python."""
