"""The embedded, Supabase-compatible stand-in: real Postgres, data API, Auth and Storage without Docker.

A development and test server. `python -m stack help` lists the commands; the Makefile calls them.
"""
