"""The explorer: a static page on which every feature can be found, and what was found can be looked at."""
