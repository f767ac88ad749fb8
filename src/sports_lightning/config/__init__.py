"""Config values: checks, overrides and what stored configs may name. No torch."""
