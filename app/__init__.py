"""In-app messaging for marketplaces on Supabase: shape, caller and pace here, every rule in SQL."""

__version__ = "0.1.0"
