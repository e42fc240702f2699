"""What features do: statistics, the diff, the choice of adapted ones, contrasts, the lexical filter."""
