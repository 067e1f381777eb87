"""The native engine's C sources. `library` compiles and loads them."""
