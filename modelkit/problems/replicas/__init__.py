"""Several replicas of a server: the one server that they are at most, and the search over which serves whom."""
