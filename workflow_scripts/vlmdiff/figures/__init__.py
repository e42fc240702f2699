"""Every plot, drawn from tables; no model is ever loaded here."""
