"""Many runs: one run as data, runs in parallel, comparisons and studies."""
