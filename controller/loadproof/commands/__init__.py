"""The larger commands of `loadproof`; cli.py registers them with the small ones."""
