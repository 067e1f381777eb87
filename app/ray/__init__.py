"""The service on a Ray cluster: ingress replicas for HTTP and codecs, engine replicas for masks.

`application` puts them together. Needs the extra `ray`.
"""
