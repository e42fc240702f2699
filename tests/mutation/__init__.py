"""`make mutants`: small faults in the scientific core, one at a time: do the unit tests notice?"""
