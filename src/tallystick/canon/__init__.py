"""Canonical bytes: how values become bytes, bytes become names, and names get signed.

Every other room stands on this one. `encoding` turns structs into bytes and strictly back, `hashing` names bytes
(domain-separated SHA-256), `merkle` names lists so that one entry can be opened, `identity` holds Ed25519 keys,
and `sealed` is the one signed envelope that everything on a wire or in a file uses.
"""
