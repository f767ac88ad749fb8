"""Config values: their types and rules, overrides, and the objects that stored configs may name. No torch."""
