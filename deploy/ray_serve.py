"""`serve run deploy.ray_serve:app`: the service on a Ray cluster; docs/ray.md explains it."""

from app.ray.application import build_application as app

__all__ = ["app"]
