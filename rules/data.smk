# Data sets prepared from public sources.
