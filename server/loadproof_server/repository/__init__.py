"""Which models are served and how: options, OVMS's configuration file, model directories, loading and reloading."""
