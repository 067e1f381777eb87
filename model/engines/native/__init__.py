"""The native engine's C sources, its libraries, and how they are built: see `library`."""
