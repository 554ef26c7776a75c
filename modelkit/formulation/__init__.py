"""What a formulation is, its parameters, finding and loading files, and the process that runs users' files."""
